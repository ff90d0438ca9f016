"""Small programs in real sandboxes, for tests and benchmarks."""

import contextlib
import os
import select
import textwrap
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Final

from qonduit_worker.sandbox.model import Exit, Limits, SandboxSpec
from qonduit_worker.sandbox.sandboxed import Sandboxed
from qonduit_worker.sandbox.zygote import Zygote

MIB: Final = 1024 * 1024
LIMITS: Final = Limits(cpu=1.0, mem_bytes=256 * MIB, tmp_bytes=16 * MIB, file_bytes=64 * MIB, pids=64)
STUBBORN: Final = """
import os, signal, time
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        if os.fork():
            os._exit(0)
        while True:
            time.sleep(60)
for _ in range(3):
    os.wait()
print("ready", flush=True)
time.sleep(600)
"""
"""A program with three daemons that ignore what may be ignored: five processes with the sandbox's own first one."""
ENDING: Final = STUBBORN.replace("time.sleep(600)", "while not os.path.exists('go'): time.sleep(0.01)\nos._exit(5)")
"""The same, but it ends once there is a file `go` in its folder `job`."""

_NO_ENVIRONMENT: Final[Mapping[str, str]] = {}


def run_code() -> None:
    """The entry of the programs made here: run the lines that stand in the environment."""
    exec(os.environ["CODE"], {"__name__": "__program__"})  # noqa: S102 - this is the sandbox, and they are the program.


class Sandboxes:
    """Forks programs from one zygote, each with a folder of its own below `folder`."""

    def __init__(self, zygote: Zygote, folder: Path) -> None:
        self.zygote = zygote
        self.folder = folder
        self._numbers = count()

    def spec(
        self, code: str, *, limits: Limits = LIMITS, environment: Mapping[str, str] = _NO_ENVIRONMENT
    ) -> SandboxSpec:
        """A sandbox, not made yet, that runs these lines."""
        number = next(self._numbers)
        directory = self.folder / f"box-{number}"
        for name in ("job", "data", "run"):
            (directory / name).mkdir(parents=True)
        return SandboxSpec(
            sandbox_id=f"box-{number}",
            directory=directory,
            limits=limits,
            environment={"CODE": textwrap.dedent(code), **environment},
            entry=f"{__name__}:run_code",
        )

    async def fork(
        self, code: str, *, limits: Limits = LIMITS, environment: Mapping[str, str] = _NO_ENVIRONMENT
    ) -> Sandboxed:
        """Start these lines in a sandbox."""
        return await self.zygote.fork(self.spec(code, limits=limits, environment=environment))

    async def run(
        self, code: str, *, limits: Limits = LIMITS, environment: Mapping[str, str] = _NO_ENVIRONMENT
    ) -> tuple[str, Exit]:
        """Run these lines to their end; returns what they printed, and how they ended."""
        sandbox = await self.fork(code, limits=limits, environment=environment)
        output = (await sandbox.output.read()).decode()
        return output, await sandbox.wait()


def handles(pids: list[int]) -> list[int]:
    """A descriptor that tells when a process is gone, for each of these that still lives."""
    found = []
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            found.append(os.pidfd_open(pid))
    return found


def all_gone(pidfds: list[int], *, timeout_s: float = 0.0) -> bool:
    """Whether these processes have ended, each within the time given; closes the descriptors."""
    gone = all(select.select([pidfd], [], [], timeout_s)[0] for pidfd in pidfds)
    for pidfd in pidfds:
        os.close(pidfd)
    return gone
