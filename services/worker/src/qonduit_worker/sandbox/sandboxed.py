"""A running sandbox, as the agent holds it."""

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Any, Final

from qonduit_worker.sandbox import proctree
from qonduit_worker.sandbox.cgroups import Cgroup
from qonduit_worker.sandbox.errors import SandboxStartError
from qonduit_worker.sandbox.model import Exit, Usage
from qonduit_worker.zygote import wire

_WATCHDOG_PERIOD_S: Final = 0.1


class Sandboxed:
    """One sandbox from fork to end. The program runs from the moment it is made.

    Attributes:
        sandbox_id: As given in its spec.
        output: Standard output and error of all its processes, as one ordered stream.
        listener: A TCP socket that listens on the loopback the program sees; closed when the sandbox ends.
        port: The listener's port.
    """

    def __init__(
        self, *, sandbox_id: str, control: socket.socket, output: asyncio.StreamReader, cgroup: Cgroup
    ) -> None:
        self.sandbox_id = sandbox_id
        self.output = output
        self.listener: socket.socket
        self.port = 0
        self.pid = 0
        self._control = control
        self._cgroup = cgroup
        self._pidfd = -1
        self._loop = asyncio.get_running_loop()
        self._started: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[Exit] = self._loop.create_future()
        self._born = time.monotonic()
        self._report: dict[str, Any] = {}
        self._last = Usage(0.0, 0, 0)
        self._watched_bytes: int | None = None
        self._inherited_bytes = 0
        self._over_limit = False
        self._watchdog: asyncio.TimerHandle | None = None
        self._on_end: list[Callable[[], None]] = []
        control.setblocking(False)  # noqa: FBT003 - the standard library's signature.
        self._loop.add_reader(control.fileno(), self._read_control)

    # --- used by the zygote that makes it ---

    async def started(self) -> None:
        """Wait until the program's process is about to begin.

        Raises:
            SandboxStartError: It could not be set up.
        """
        await asyncio.shield(self._started)

    def when_ended(self, callback: Callable[[], None]) -> None:
        """Have something done when all processes are gone."""
        self._on_end.append(callback)

    def watch_memory(self, limit_bytes: int, inherited_bytes: int) -> None:
        """Kill the tree when it holds more than `limit_bytes`: for machines where the kernel doesn't."""
        self._watched_bytes = limit_bytes
        self._inherited_bytes = inherited_bytes
        self._look()

    # --- used by everyone ---

    async def wait(self) -> Exit:
        """Wait until every process of the sandbox is gone; may be called any number of times."""
        return await asyncio.shield(self._ended)

    def usage(self) -> Usage:
        """What it has used so far, as of now; the final numbers once it has ended."""
        if not self._ended.done():
            self._measure()
        return self._last

    def terminate(self) -> None:
        """Send SIGTERM to the program; does nothing when it has ended."""
        self._command(wire.TERMINATE)

    def kill(self) -> None:
        """Kill the whole tree at once; does nothing when it has ended."""
        if self._ended.done():
            return
        self._command(wire.KILL)
        if self._own_pids and self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    # --- events ---

    _own_pids = True

    def without_namespace(self) -> None:
        """Note that the first process ends its tree itself, so that it must not be killed before it has."""
        self._own_pids = False

    def _command(self, command: bytes) -> None:
        with contextlib.suppress(OSError):
            self._control.send(command)

    def _read_control(self) -> None:
        try:
            message = wire.receive(self._control)
        except BlockingIOError:
            return
        if message is None:
            self._loop.remove_reader(self._control.fileno())
            if self._pidfd < 0:
                self._fail("The zygote died before it forked.")
            return
        self._note(*message)

    def _note(self, fields: dict[str, Any], descriptors: list[int]) -> None:
        kind = fields["kind"]
        if kind == "forked":
            (self._pidfd,) = descriptors
            self.pid = _pid_of(self._pidfd)
            self._loop.add_reader(self._pidfd, self._gone)
        elif kind == "started":
            if descriptors:
                self.listener = socket.socket(fileno=descriptors[0])
                self.listener.setblocking(False)  # noqa: FBT003
            self.port = fields["port"]
            if not self._started.done():
                self._started.set_result(None)
        elif kind == "failed":
            self._fail(fields["text"])
        elif kind == "exit":
            self._report = fields

    def _fail(self, text: str) -> None:
        if not self._started.done():
            self._started.set_exception(SandboxStartError(f"Sandbox {self.sandbox_id} was not made: {text}"))

    def _gone(self) -> None:
        """Every process is dead: the pidfd says so once the namespace is empty."""
        self._loop.remove_reader(self._pidfd)
        # What the first process said last may still be waiting to be read.
        with contextlib.suppress(BlockingIOError):
            while (message := wire.receive(self._control)) is not None:
                self._note(*message)
        self.finish()

    def finish(self) -> None:
        """Take the final numbers, free what the sandbox held, and tell who waits."""
        if self._ended.done():
            return
        if self._watchdog is not None:
            self._watchdog.cancel()
        with contextlib.suppress(OSError):
            self._cgroup.kill()
        self._measure()
        oom_kills = self._cgroup.readings().oom_kills if self._cgroup.folders else None
        status = self._report.get("status")
        code = os.waitstatus_to_exitcode(status) if status is not None else -signal.SIGKILL
        self._fail("Its first process was killed.")
        self._ended.set_result(
            Exit(
                exit_code=code if code >= 0 else None,
                signal=-code if code < 0 else None,
                oom_killed=self._over_limit or bool(oom_kills),
                cpu_seconds=self._last.cpu_seconds,
                peak_mem_bytes=self._last.peak_mem_bytes,
                wall_seconds=time.monotonic() - self._born,
            )
        )
        self._free()

    def _free(self) -> None:
        if hasattr(self, "listener"):
            self.listener.close()
        self._loop.remove_reader(self._control.fileno())
        self._control.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        if not self._started.cancelled() and self._started.done():
            self._started.exception()  # It has been looked at: nobody may be waiting for it any more.
        for callback in self._on_end:
            callback()

    # --- measuring ---

    def _measure(self) -> None:
        counted = self._cgroup.readings() if self._cgroup.folders else None
        cpu_s = counted.cpu_seconds if counted else None
        mem = counted.mem_bytes if counted else None
        peak = counted.peak_mem_bytes if counted else None
        if cpu_s is None or mem is None:
            pids = proctree.tree(self.pid) if self.pid and not self._report else []
            cpu_s = (
                max(self._last.cpu_seconds, proctree.cpu_seconds(pids), self._report.get("cpu_s", 0.0))
                if (cpu_s is None)
                else cpu_s
            )
            mem = proctree.mem_bytes(pids, self._inherited_bytes) if mem is None else mem
        if peak is None:
            peak = max(self._last.peak_mem_bytes, mem)
        self._last = Usage(cpu_s, mem, peak)

    def _look(self) -> None:
        if self._ended.done() or self._watched_bytes is None:
            return
        self._measure()
        if self._last.mem_bytes > self._watched_bytes:
            self._over_limit = True
            self.kill()
            return
        self._watchdog = self._loop.call_later(_WATCHDOG_PERIOD_S, self._look)


def _pid_of(pidfd: int) -> int:
    """The process's number as this process sees it; 0 when it is gone already."""
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as file:  # noqa: PTH123 - read for each fork.
        for line in file:
            if line.startswith("Pid:"):
                return max(0, int(line.split()[1]))
    return 0
