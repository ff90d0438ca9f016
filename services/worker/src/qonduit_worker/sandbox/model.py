"""The values that go into a sandbox and come out of it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from qonduit_worker.zygote import layout

Tier = Literal["A", "B", "C"]
"""How well programs are confined; `probe` says what each letter means on this machine."""

_ID: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a sandbox may use.

    Attributes:
        cpu: Share of the machine's CPU in cores, a weight against the other sandboxes and no hard limit.
        mem_bytes: Memory of the whole tree, files in `/tmp` included; over it, the program is killed.
        tmp_bytes: Size of `/tmp`, and again of `/dev/shm`.
        file_bytes: Size of any one file; None for no limit.
        pids: Processes and threads together.
    """

    cpu: float
    mem_bytes: int
    tmp_bytes: int
    file_bytes: int | None = None
    pids: int = 512


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """One sandbox to fork.

    Attributes:
        sandbox_id: Unique on this machine while the sandbox lives: lower case letters, digits, `-`; at most 63.
        directory: The sandbox's folder on the host, with `job/`, `data/` and `run/` in it. When the worker runs
            as root these are given to the sandbox's user, so they must share no file (hard link) with others.
        limits: What it may use.
        environment: All of the program's environment. `PORT_PLACEHOLDER` in a value becomes the listener's port.
        entry: `module:function`, called in the sandbox with no arguments.
        layer: A folder of packages that the program imports from before the interpreter's own; read-only to it.
    """

    sandbox_id: str
    directory: Path
    limits: Limits
    environment: Mapping[str, str]
    entry: str
    layer: Path | None = None

    def __post_init__(self) -> None:
        """Refuse an id that would not do as a file name.

        Raises:
            ValueError: The id is malformed.
        """
        if not _ID.fullmatch(self.sandbox_id):
            raise ValueError(f"A sandbox id has only a-z, 0-9 and '-', and not {self.sandbox_id!r}.")


@dataclass(frozen=True, slots=True)
class InsidePaths:
    """Where a program finds its folders; the host's own paths in tiers without a mount namespace."""

    job: Path
    data: Path
    tmp: Path
    agent_socket: Path
    function_data: Path
    layer: Path | None = None

    @classmethod
    def of(cls, tier: Tier, directory: Path, layer: Path | None = None) -> "InsidePaths":
        """The paths of the sandbox whose folder is `directory`, with a layer of packages or without."""
        if tier == "A":
            shown = Path(layout.LAYER) if layer is not None else None
            job, data, tmp, run = map(Path, (layout.JOB, layout.DATA, layout.TMP, layout.RUN))
            return cls(job, data, tmp, run / "agent.sock", Path(layout.FUNCTION_DATA), shown)
        job, data, tmp, run = (directory / name for name in ("job", "data", "tmp", "run"))
        return cls(job, data, tmp, run / "agent.sock", run / layout.FUNCTION_DATA_NAME, layer)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a sandbox has used so far, all its processes together."""

    cpu_seconds: float
    mem_bytes: int
    peak_mem_bytes: int


@dataclass(frozen=True, slots=True)
class Exit:
    """How a sandbox ended.

    Attributes:
        exit_code: What the program exited with; None when a signal ended it.
        signal: The signal that ended it; None when it exited. SIGKILL for a tree that was killed as a whole.
        oom_killed: The memory limit killed at least one of its processes.
        cpu_seconds: CPU time of all its processes.
        peak_mem_bytes: The most memory it held at once.
        wall_seconds: From fork to end.
    """

    exit_code: int | None
    signal: int | None
    oom_killed: bool
    cpu_seconds: float
    peak_mem_bytes: int
    wall_seconds: float
