"""Processes by pid, without ever taking another process for the one that was meant."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A pid and what tells its process from a later one with the same pid."""

    pid: int
    birth: str

    @property
    def alive(self) -> bool:
        """Whether this very process lives."""
        return self.birth != "" and birth_of(self.pid) == self.birth

    def send(self, number: signal.Signals) -> bool:
        """Send a signal to this very process; False if it is gone."""
        if not hasattr(os, "pidfd_open"):
            return self.alive and _kill(self.pid, number)
        with contextlib.suppress(OSError), _opened(self.pid) as descriptor:
            # The descriptor holds on to the process, so that it is still the one whose birth was compared.
            if self.alive:
                signal.pidfd_send_signal(descriptor, number)
                return True
        return False

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end; False if it still lives after so many seconds."""
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError), _opened(self.pid) as descriptor:
                if not self.alive:
                    return True
                return bool(select.select([descriptor], [], [], timeout_s)[0])
        deadline = time.monotonic() + timeout_s
        while self.alive and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        return not self.alive


def process_id(pid: int) -> ProcessId:
    """Return the identity of the process that has this pid now."""
    return ProcessId(pid, birth_of(pid))


def birth_of(pid: int) -> str:
    """Return when a process was started, as a text that never repeats for its pid; empty if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "" if Path("/proc/self/stat").exists() else _birth_by_ps(pid)
    state, start_ticks = fields[0], fields[19]
    return "" if state in {"Z", "X"} else f"{_boot()}-{start_ticks}"


async def ended(pid: int) -> None:
    """Return when a process has ended, whoever its parent is."""
    if not hasattr(os, "pidfd_open"):
        me = process_id(pid)
        while me.alive:  # noqa: ASYNC110 - Other systems tell nobody but the parent.
            await asyncio.sleep(_POLL_S)
        return
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    loop.add_reader(descriptor, over.set)
    try:
        await over.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


@contextlib.contextmanager
def _opened(pid: int):  # type: ignore[no-untyped-def] # noqa: ANN202 - A generator of one file descriptor.
    descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _kill(pid: int, number: signal.Signals) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text()[:8]


def _birth_by_ps(pid: int) -> str:
    done = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return done.stdout.strip()
