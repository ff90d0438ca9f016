"""A running sandbox, as the agent holds it."""

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from qonduit_service_kit.logs import get_logger

from qonduit_worker.sandbox.cgroups import Cgroup
from qonduit_worker.sandbox.errors import SandboxStartError
from qonduit_worker.sandbox.metering import Meter
from qonduit_worker.sandbox.model import Exit, Usage
from qonduit_worker.sandbox.watchdog import Watchdog
from qonduit_worker.shielding import to_its_end
from qonduit_worker.zygote import wire

_log = get_logger(__name__)

_OUTPUT_BUFFER_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class Output:
    """The reading end of a pipe on the event loop."""

    reader: asyncio.StreamReader
    transport: asyncio.BaseTransport


async def open_output() -> tuple[Output, int]:
    """Make a pipe that is read on the event loop; returns its other end as a descriptor."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=_OUTPUT_BUFFER_BYTES, loop=loop)
    pipe = open(read_end, "rb", buffering=0)  # noqa: ASYNC230, PTH123, SIM115 - a pipe; the transport closes it.
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader, loop=loop), pipe)
    return Output(reader, transport), write_end


@dataclass(frozen=True, slots=True)
class Parts:
    """What a zygote makes a sandbox of.

    Attributes:
        control: The agent's end of the sandbox's control socket.
        output: Its output.
        cgroup: Its control group.
        meter: What measures it.
        listener: The listener, where the agent makes it; None where it comes out of the sandbox.
        mem_bytes: Memory over which the tree is killed.
        watchdog: What sees to that; None where the kernel does.
        free: Called once every process is gone.
    """

    control: socket.socket
    output: Output
    cgroup: Cgroup
    meter: Meter
    listener: socket.socket | None
    mem_bytes: int
    watchdog: Watchdog | None
    free: Callable[[], None]


class Sandboxed:
    """One sandbox from fork to end.

    Attributes:
        sandbox_id: As given in its spec.
        output: Standard output and error of all its processes, as one ordered stream. Read it to its end.
        port: Of the TCP socket that listens on the loopback the program sees.
        pid: The sandbox's first process, as the agent numbers it; the end of that one is the end of all.
    """

    def __init__(self, sandbox_id: str, parts: Parts) -> None:
        self.sandbox_id = sandbox_id
        self.output = parts.output.reader
        self.port = 0
        self.pid = 0
        self._parts = parts
        self._listener = parts.listener
        self._loop = asyncio.get_running_loop()
        self._started: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[Exit] = self._loop.create_future()
        self._born = time.monotonic()
        self._pidfd = -1
        self._program_pidfd = -1
        self._doomed = False
        self._report: dict[str, Any] = {}
        self._over_limit = False
        self._finishing: asyncio.Task[None] | None = None
        parts.control.setblocking(False)  # noqa: FBT003 - the standard library's signature.
        self._loop.add_reader(parts.control.fileno(), self._read_control)

    def open_listener(self) -> socket.socket | None:
        """Return the caller's own copy of the TCP socket that listens on the loopback the program sees.

        None once the sandbox has ended: a program may be over before its agent asks.

        Raises:
            RuntimeError: The sandbox has not started.
        """
        if self._finishing is not None:
            return None
        if self._listener is None:
            raise RuntimeError(f"Sandbox {self.sandbox_id} has not started.")
        return self._listener.dup()

    async def started(self) -> None:
        """Wait until the program's process is about to begin.

        Raises:
            SandboxStartError: It could not be set up.
        """
        await asyncio.shield(self._started)

    async def wait(self) -> Exit:
        """Wait until every process of the sandbox is gone; may be called any number of times."""
        return await asyncio.shield(self._ended)

    def usage(self) -> Usage:
        """What it has used so far, as of now; the final numbers once it has ended."""
        return self._parts.meter.last if self._finishing is not None else self._parts.meter.read()

    def terminate(self) -> None:
        """Send SIGTERM to the program; does nothing when it has ended."""
        if self._program_pidfd >= 0:
            _send(self._program_pidfd, signal.SIGTERM)
        else:
            self._command(wire.TERMINATE)

    def kill(self) -> None:
        """Kill the whole tree at once; does nothing when it has ended."""
        self._doomed = True  # Heard also by a sandbox that is only being forked now.
        if self._parts.listener is not None:
            # Without a namespace its first process has to live on to end the others.
            self._command(wire.KILL)
        elif self._pidfd >= 0:
            _send(self._pidfd, signal.SIGKILL)

    def processes(self) -> list[int]:
        """Every process of it now, as the agent numbers them; none when it has ended."""
        return [] if self._finishing is not None else self._parts.meter.processes()

    def close_output(self) -> None:
        """Stop reading the output; what has arrived can still be taken."""
        self._parts.output.transport.close()

    def _command(self, command: bytes) -> None:
        with contextlib.suppress(OSError):
            self._parts.control.send(command)

    def _read_control(self) -> None:
        try:
            message = wire.receive(self._parts.control)
        except BlockingIOError:
            return
        if message is not None:
            self._note(*message)
            return
        self._loop.remove_reader(self._parts.control.fileno())
        if self._pidfd < 0:
            self._fail("The zygote died before it forked.")

    def _note(self, fields: dict[str, Any], descriptors: list[int]) -> None:
        match fields["kind"]:
            case "forked":
                self._forked(*descriptors)
            case "started":
                self._begin(fields["port"], descriptors)
            case "failed":
                self._fail(fields["text"])
            case "exit":
                self._report = fields

    def _forked(self, first: int, program: int = -1) -> None:
        self._pidfd, self._program_pidfd = first, program
        self.pid = pid_of(first)
        self._parts.meter.attach([self.pid] if program < 0 else [self.pid, pid_of(program)])
        self._loop.add_reader(first, self._gone)
        if self._doomed:
            self.kill()
        self._settle_start()

    def _begin(self, port: int, descriptors: list[int]) -> None:
        if descriptors:
            self._listener = socket.socket(fileno=descriptors[0])
            self._listener.setblocking(False)  # noqa: FBT003 - the standard library's signature.
        self.port = port
        self._settle_start()

    def _settle_start(self) -> None:
        """The zygote and the sandbox each say their word, in any order."""
        if self._pidfd < 0 or self.port == 0 or self._started.done():
            return
        self._started.set_result(None)
        if self._parts.watchdog is not None:
            self._parts.watchdog.watch(self)

    def _fail(self, text: str) -> None:
        if not self._started.done():
            self._started.set_exception(SandboxStartError(f"Sandbox {self.sandbox_id} was not made: {text}"))
        if self._pidfd < 0:
            self.finish()

    def _gone(self) -> None:
        """Every process is dead: the pidfd says so once the namespace is empty."""
        self._loop.remove_reader(self._pidfd)
        # What the first process said last may still be waiting to be read.
        with contextlib.suppress(BlockingIOError):
            while (message := wire.receive(self._parts.control)) is not None:
                self._note(*message)
        self.finish()

    def finish(self) -> None:
        """Begin the end: nothing of the sandbox runs any more."""
        if self._finishing is None:
            self._finishing = self._loop.create_task(self._finish())

    async def _finish(self) -> None:
        """Tell the end. Whatever goes wrong is told as well: whoever waits for it would wait for ever."""
        try:
            self._ended.set_result(await self._end())
        except Exception as error:  # noqa: BLE001 - see above.
            self._ended.set_exception(error)
        if not self._started.done():
            self._started.set_exception(SandboxStartError(f"Sandbox {self.sandbox_id} was killed as it started."))
        self._started.exception()  # Looked at: there may be nobody left who waits for it.

    async def _end(self) -> Exit:
        if self._parts.watchdog is not None:
            self._parts.watchdog.forget(self)
        self._loop.remove_reader(self._parts.control.fileno())
        wall_s = time.monotonic() - self._born
        try:
            usage = self._parts.meter.settle(self._report.get("cpu_s", 0.0))
            oom_killed = self._over_limit or self._parts.meter.oom_kills > 0
        finally:
            await self._free()
        status = self._report.get("status")
        code = os.waitstatus_to_exitcode(status) if status is not None else -signal.SIGKILL
        return Exit(
            exit_code=code if code >= 0 else None,
            signal=-code if code < 0 else None,
            oom_killed=oom_killed,
            cpu_seconds=usage.cpu_seconds,
            peak_mem_bytes=usage.peak_mem_bytes,
            wall_seconds=wall_s,
        )

    async def _free(self) -> None:
        if self._listener is not None:
            self._listener.close()
        self._parts.control.close()
        for descriptor in (self._pidfd, self._program_pidfd):
            if descriptor >= 0:
                os.close(descriptor)
        self._pidfd = self._program_pidfd = -1
        await discard(self._parts.cgroup)
        self._parts.free()

    def look(self) -> int:
        """Read how many bytes it holds now; may run in a thread."""
        return self._parts.meter.look()

    def saw(self, mem_bytes: int) -> None:
        """Take what it held a moment ago, and kill the tree if that is too much."""
        self._parts.meter.saw(mem_bytes)
        if mem_bytes > self._parts.mem_bytes:
            self._over_limit = True
            self.kill()


async def discard(group: Cgroup) -> None:
    """Remove a control group. One that stays busy is left to the sweep of the worker's next start.

    What comes after must come even then: whoever waits for the end of its sandbox would wait for ever.
    """
    if group.try_remove():
        return
    try:
        await to_its_end(asyncio.to_thread(group.remove))
    except OSError as error:
        _log.warning("control_group_left", folders=[str(folder) for folder in group.folders], error=str(error))


def _send(pidfd: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, number)


def pid_of(pidfd: int) -> int:
    """The process's number as this process sees it; 0 when it is gone already."""
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as file:  # noqa: PTH123 - read for each fork.
        for line in file:
            if line.startswith("Pid:"):
                return max(0, int(line.split()[1]))
    return 0
