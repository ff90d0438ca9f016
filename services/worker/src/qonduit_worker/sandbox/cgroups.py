"""One control group, in the words of version 1 and of version 2."""

import contextlib
import errno
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from qonduit_worker.sandbox.hierarchies import words
from qonduit_worker.sandbox.model import Limits

_V1_SHARES: Final = 1024
_V2_WEIGHT: Final = 100
_REMOVE_PATIENCE_S: Final = 30.0
"""On a busy machine the kernel may take seconds until it has let the last killed process go."""
_REMOVE_PAUSE_S: Final = 0.005


@dataclass(frozen=True, slots=True)
class Readings:
    """What the kernel has counted for one group; None where no controller counts it."""

    cpu_seconds: float | None
    mem_bytes: int | None
    peak_mem_bytes: int | None
    oom_kills: int | None


class Cgroup:
    """The groups of one sandbox, one in each hierarchy."""

    def __init__(self, v1: dict[str, Path], v2: Path | None) -> None:
        self._v1 = v1
        self._v2 = v2

    @property
    def folders(self) -> list[Path]:
        """All folders of this group."""
        return [*dict.fromkeys(self._v1.values()), *([self._v2] if self._v2 else [])]

    def create(self) -> None:
        """Make the folders.

        Raises:
            OSError: The kernel refused.
        """
        for folder in self.folders:
            folder.mkdir()

    def apply(self, limits: Limits) -> None:
        """Write the limits of a group that is there.

        Raises:
            OSError: The kernel refused.
        """
        for name, value in _v1_limits(limits):
            controller, _, _rest = name.partition(".")
            if controller in self._v1:
                _write(self._v1[controller] / name, value)
        if self._v2 is not None:
            for name, value in _v2_limits(limits):
                _write(self._v2 / name, value)

    def hand_on(self, controllers: Iterable[str]) -> None:
        """Let groups below this one be governed by these version 2 controllers.

        Raises:
            OSError: The kernel refused.
        """
        if self._v2 is not None:
            for name in controllers:
                (self._v2 / "cgroup.subtree_control").write_text(f"+{name}")

    def below(self, name: str) -> "Cgroup":
        """A group inside this one, not made yet."""
        v1 = {controller: folder / name for controller, folder in self._v1.items()}
        return Cgroup(v1, self._v2 / name if self._v2 is not None else None)

    def open_procs(self) -> list[int]:
        """Descriptors through which a process puts itself into this group by writing `0`; the caller closes them."""
        return [os.open(folder / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC) for folder in self.folders]

    def readings(self) -> Readings:
        """Read what the kernel has counted."""
        return Readings(self._cpu_seconds(), self._number("usage"), self._number("peak"), self._oom_kills())

    def _cpu_seconds(self) -> float | None:
        if "cpuacct" in self._v1:
            return int((self._v1["cpuacct"] / "cpuacct.usage").read_text()) / 1e9
        if self._v2 is not None:
            usage = _table(self._v2 / "cpu.stat").get("usage_usec")
            return None if usage is None else usage / 1e6
        return None

    def _number(self, what: Literal["usage", "peak"]) -> int | None:
        names = {"usage": ("usage_in_bytes", "current"), "peak": ("max_usage_in_bytes", "peak")}[what]
        folder = self._v1.get("memory")
        file = folder / f"memory.{names[0]}" if folder else self._v2 / f"memory.{names[1]}" if self._v2 else None
        found = words(file) if file else []
        return int(found[0]) if found else None

    def _oom_kills(self) -> int | None:
        if "memory" in self._v1:
            return _table(self._v1["memory"] / "memory.oom_control").get("oom_kill")
        if self._v2 is not None:
            return _table(self._v2 / "memory.events").get("oom_kill")
        return None

    def kill(self) -> None:
        """Kill every process in the group."""
        if self._v2 is not None and (self._v2 / "cgroup.kill").exists():
            _write(self._v2 / "cgroup.kill", "1")
            return
        for folder in self.folders[:1]:
            for word in words(folder / "cgroup.procs"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(word), signal.SIGKILL)

    def try_remove(self) -> bool:
        """Remove the folders if they are free of processes; says whether all are gone."""
        for folder in self.folders:
            try:
                folder.rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                return False
        return True

    def remove(self) -> None:
        """Kill what is left and remove the folders; a folder that is gone already is no error.

        Raises:
            OSError: A process in it cannot be killed.
        """
        for folder in self.folders:
            _remove(folder, self)


def _remove(folder: Path, group: Cgroup) -> None:
    until = time.monotonic() + _REMOVE_PATIENCE_S
    while True:
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            # A process leaves its group a moment after its end can be seen.
            if error.errno != errno.EBUSY or time.monotonic() > until:
                raise
            group.kill()
            time.sleep(_REMOVE_PAUSE_S)
        else:
            return


def _v1_limits(limits: Limits) -> list[tuple[str, str]]:
    return [
        ("cpu.shares", str(max(2, round(limits.cpu * _V1_SHARES)))),
        ("memory.limit_in_bytes", str(limits.mem_bytes)),
        ("memory.memsw.limit_in_bytes", str(limits.mem_bytes)),
        ("pids.max", str(limits.pids)),
    ]


def _v2_limits(limits: Limits) -> list[tuple[str, str]]:
    return [
        ("cpu.weight", str(min(10_000, max(1, round(limits.cpu * _V2_WEIGHT))))),
        ("memory.max", str(limits.mem_bytes)),
        ("memory.swap.max", "0"),
        ("memory.oom.group", "1"),
        ("pids.max", str(limits.pids)),
    ]


def _write(file: Path, value: str) -> None:
    if file.exists():  # A kernel without swap accounting, or a group without this controller.
        file.write_text(value)


def _table(file: Path) -> dict[str, int]:
    found = words(file)
    return dict(zip(found[::2], map(int, found[1::2]), strict=False))
