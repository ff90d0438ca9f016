"""The supervisor's end of the process that services are forked from: see `qonduit.stack.fork_server`."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SHARED: Final = (
    "qonduit_service_kit.bus",
    "qonduit_service_kit.lifecycle",
    "qonduit_service_kit.rpc",
    "qonduit_service_kit.settings",
    "qonduit_service_kit.tickets",
    "qonduit_api.internal.v1.storage_pb2_grpc",
    "packaging.requirements",
    "sqlite3",
    "tarfile",
)
"""What more than one service imports. Never a module of a service: no service may hold the code of another."""
_MESSAGE_BYTES: Final = 4096
_PATIENCE_S: Final = 60.0
_PR_SET_CHILD_SUBREAPER: Final = 36


class ForksUnfitError(Exception):
    """There is no process that services can be forked from; the text says why."""


class ForkedProcess:
    """A service that was forked: this process's child, though it didn't start it; as asyncio's own processes are."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ended = asyncio.Event()
        self._descriptor = os.pidfd_open(pid)
        asyncio.get_running_loop().add_reader(self._descriptor, self._reap)

    async def wait(self) -> int:
        """Return its exit code, once it has ended."""
        await self._ended.wait()
        return self.returncode or 0

    def terminate(self) -> None:
        """Send SIGTERM; ProcessLookupError if it is gone."""
        if self.returncode is not None:
            raise ProcessLookupError(self.pid)
        signal.pidfd_send_signal(self._descriptor, signal.SIGTERM)

    def _reap(self) -> None:
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)
        _, status = os.waitpid(self.pid, 0)
        self.returncode = os.waitstatus_to_exitcode(status)
        self._ended.set()


class _Server:
    """One life of the process that forks."""

    def __init__(self, process: asyncio.subprocess.Process, channel: socket.socket) -> None:
        self.process = process
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._channel = channel
        self._asked: dict[int, asyncio.Future[ForkedProcess]] = {}
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(channel.fileno(), self._read)

    async def fork(self, module: str, environment: Mapping[str, str], log: int) -> ForkedProcess:
        """Have a process forked."""
        number = len(self._asked)
        asked: asyncio.Future[ForkedProcess] = self._loop.create_future()
        self._asked[number] = asked
        memory = os.memfd_create("service")
        try:
            with open(memory, "wb", closefd=False) as file:  # noqa: ASYNC230 - Memory, without a path.
                file.write(json.dumps({"module": module, "environment": dict(environment)}).encode())
            os.lseek(memory, 0, os.SEEK_SET)
            socket.send_fds(self._channel, [json.dumps({"number": number}).encode()], [memory, log])
        except OSError as error:
            raise ForksUnfitError(f"what they are forked from is gone ({error})") from error
        finally:
            os.close(memory)
        return await asked

    async def stop(self) -> None:
        """End it; what it forked lives on."""
        self._loop.remove_reader(self._channel.fileno())
        self._channel.close()
        await self.process.wait()

    def _read(self) -> None:
        try:
            told = self._channel.recv(_MESSAGE_BYTES)
        except BlockingIOError:
            return
        except ConnectionError:
            told = b""
        if not told:
            self._loop.remove_reader(self._channel.fileno())
            self._give_up(ForksUnfitError("what they are forked from has ended"))
            return
        message = json.loads(told)
        match message["kind"]:
            case "ready":
                self.ready.set_result(None)
            case "unfit":
                self._give_up(ForksUnfitError(message["text"]))
            case "forked":
                self._hand_out(ForkedProcess(message["pid"]), self._asked[message["number"]])
            case "refused":
                self._refuse(OSError(message["text"]), self._asked[message["number"]])

    def _hand_out(self, forked: ForkedProcess, asked: asyncio.Future[ForkedProcess]) -> None:
        if asked.done():  # Who asked has gone away.
            forked.terminate()
        else:
            asked.set_result(forked)

    def _give_up(self, error: ForksUnfitError) -> None:
        self._refuse(error, self.ready)
        for asked in self._asked.values():
            self._refuse(error, asked)

    @staticmethod
    def _refuse(error: Exception, waiting: asyncio.Future[Any]) -> None:
        if not waiting.done():
            waiting.set_exception(error)


class Forks:
    """Forks services; what they are forked from runs only while some are asked for, and those share it."""

    def __init__(self, environment: Mapping[str, str], shared: Sequence[str] = SHARED) -> None:
        self._environment = dict(environment)
        self._shared = tuple(shared)
        self._users = 0
        self._server: asyncio.Task[_Server] | None = None

    async def launch(self, module: str, environment: Mapping[str, str], log: int) -> ForkedProcess:
        """Fork a service, with its output in the file `log`.

        Raises:
            ForksUnfitError: There is nothing to fork from.
            OSError: The system refused.
        """
        self._users += 1
        try:
            async with asyncio.timeout(_PATIENCE_S):
                server = await self._running()
                return await server.fork(module, environment, log)
        except TimeoutError:
            raise ForksUnfitError(f"what they are forked from did not answer within {_PATIENCE_S:.0f} s") from None
        finally:
            self._users -= 1
            if not self._users:
                await self._rest()

    async def _running(self) -> _Server:
        if self._server is None:
            self._server = asyncio.create_task(self._start())
        server = await asyncio.shield(self._server)
        await asyncio.shield(server.ready)
        return server

    async def _rest(self) -> None:
        starting, self._server = self._server, None
        if starting is not None:
            server = await starting
            await server.stop()
            if self._server is None:
                be_given_orphans(wanted=False)

    async def _start(self) -> _Server:
        be_given_orphans(wanted=True)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)  # noqa: FBT003 - the standard library's signature.
        with theirs, contextlib.ExitStack() as undo:
            undo.callback(ours.close)
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "qonduit.stack.fork_server"),
                *(str(theirs.fileno()), str(os.getpid()), *self._shared),
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
            undo.pop_all()
        return _Server(process, ours)


def be_given_orphans(*, wanted: bool) -> None:
    """Say whether this process is to be the parent of whatever loses its own below it; else the first process is."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(wanted), 0, 0, 0)
