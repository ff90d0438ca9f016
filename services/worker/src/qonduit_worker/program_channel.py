"""The agent's side of the channel to a sandbox: a Unix socket whose frames nobody vouches for."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Any, Final

from qonduit.program.channel import MAX_FRAME_BYTES, decode_frame, encode_frame, frame_length, short_path
from qonduit_service_kit.logs import get_logger

from qonduit_worker.storage import StorageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    Handler = Callable[["ProgramSession", Mapping[str, Any]], Awaitable[Any]]
    Listener = Callable[["ProgramSession", Mapping[str, Any]], Awaitable[object] | None]

MAX_SESSIONS: Final = 64
MAX_REQUESTS_IN_FLIGHT: Final = 64
MAX_REQUEST_BYTES: Final = 64 * 1024**2
"""Of all requests that a sandbox has in flight, together; what is more waits in its sockets."""
MAX_UNSENT_BYTES: Final = 64 * 1024**2
"""Of all that a sandbox's processes were told and have not read, together."""
_HEADER_BYTES: Final = 4
_BUFFER_BYTES: Final = 512 * 1024
"""What is read from a process at a time: many small messages."""

_log = get_logger(__name__)


class RequestError(Exception):
    """A request cannot be met; the program is told the kind and the text."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class _Budget:
    """Bytes that the requests of one sandbox may hold at a time, whatever number of connections they come by."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._given_back = asyncio.Event()

    async def take(self, size: int) -> None:
        while size > self._left:
            self._given_back.clear()
            await self._given_back.wait()
        self._left -= size

    def give_back(self, size: int) -> None:
        self._left += size
        self._given_back.set()


class ProgramSession:
    """One connection of one process of the sandbox."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._unread = bytearray()
        self._start = 0
        self.wants_pushes = False
        """Whether this process waits for what the agent says by itself."""

    async def read(self) -> bool:
        """Wait for more of what the process says; False at the end."""
        try:
            part = await self._reader.read(_BUFFER_BYTES)
        except ConnectionError:
            return False
        del self._unread[: self._start]
        self._start = 0
        self._unread += part
        return bool(part)

    def next_length(self) -> int | None:
        """Return the length of the next message, None before it is known; raises ValueError for a bad frame."""
        begin = self._start + _HEADER_BYTES
        if len(self._unread) < begin:
            return None
        length = frame_length(bytes(self._unread[self._start : begin]))
        if length > MAX_FRAME_BYTES:
            raise ValueError(f"a frame of {length} bytes, {MAX_FRAME_BYTES} are allowed")
        return length

    def has_message(self, length: int) -> bool:
        """Tell whether all of the next message has come."""
        return len(self._unread) >= self._start + _HEADER_BYTES + length

    def next_message(self, length: int) -> dict[str, Any] | None:
        """Return the next message, None before all of it has come; raises ValueError for a bad frame."""
        if not self.has_message(length):
            return None
        begin = self._start + _HEADER_BYTES
        self._start = begin + length
        return decode_frame(bytes(memoryview(self._unread)[begin : self._start]))

    def push(self, name: str, **fields: Any) -> None:
        """Tell the process something, without waiting until it reads it; raises ConnectionError when it is gone."""
        self.write({"push": name, **fields})

    def write(self, message: Mapping[str, Any]) -> None:
        """Write one message; raises ConnectionError."""
        if self._writer.is_closing():
            raise ConnectionResetError("the program closed its channel")
        self._writer.write(encode_frame(message))

    async def drain(self) -> None:
        """Wait until the process has taken most of what was written; raises ConnectionError."""
        await self._writer.drain()

    @property
    def unsent_bytes(self) -> int:
        """How much of what it was told this process has not taken."""
        return self._writer.transport.get_write_buffer_size()

    def cut_off(self) -> None:
        """End the connection at once; what was not sent is dropped."""
        self._writer.transport.abort()

    def close(self) -> None:
        """End the connection."""
        self._writer.close()


class ProgramServer:
    """Listens on one sandbox's socket and hands requests to the handlers of their operations."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handlers: dict[str, Handler] = {}
        self._listeners: dict[str, Listener] = {}
        self._server: asyncio.Server | None = None
        self._sessions: dict[ProgramSession, asyncio.Task[None]] = {}
        self._budget = _Budget(MAX_REQUEST_BYTES)

    def register(self, op: str, handler: Handler) -> None:
        """Have `handler` answer the requests of one operation."""
        self._handlers[op] = handler

    def listen(self, op: str, listener: Listener) -> None:
        """Have `listener` told of one operation that has no answer, in the order in which a process says it.

        What it returns is awaited before more is read from that process.
        """
        self._listeners[op] = listener

    async def start(self) -> None:
        """Listen."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with short_path(str(self._path)) as short:
                listener.bind(short)
            self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=_BUFFER_BYTES)
        except BaseException:
            listener.close()
            raise
        # The folder around it belongs to one sandbox alone, whose user is not this one.
        self._path.chmod(0o666)

    async def stop(self) -> None:
        """Close all connections; safe to call twice."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        tasks = list(self._sessions.values())
        for session in list(self._sessions):
            session.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def push(self, name: str, **fields: Any) -> None:
        """Tell every process that waits for pushes; one that is gone is passed over.

        Nobody waits here for a program: one that doesn't read would hold up its other messages, and in the end
        those of the whole worker.
        """
        for session in list(self._sessions):
            if session.wants_pushes:
                with contextlib.suppress(ConnectionError):
                    session.push(name, **fields)
        self._cut_off_the_deaf()

    @property
    def unsent_bytes(self) -> int:
        """How much its processes were told and have not read, together."""
        return sum(session.unsent_bytes for session in self._sessions)

    def _cut_off_the_deaf(self) -> None:
        """Keep within bounds what is held for a sandbox that doesn't read what it is told."""
        while self.unsent_bytes > MAX_UNSENT_BYTES:
            deaf = max(self._sessions, key=lambda session: session.unsent_bytes)
            _log.warning("program_does_not_read", socket=str(self._path), unsent_bytes=deaf.unsent_bytes)
            deaf.cut_off()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = ProgramSession(reader, writer)
        task = asyncio.current_task()
        if task is None or len(self._sessions) >= MAX_SESSIONS:
            session.close()
            return
        self._sessions[session] = task
        running: set[asyncio.Task[None]] = set()
        try:
            await self._read(session, running)
        except asyncio.CancelledError:
            pass  # The server is stopping; asyncio would log it as an error of this callback.
        finally:
            del self._sessions[session]
            for request in list(running):
                request.cancel()
            session.close()

    async def _read(self, session: ProgramSession, running: set[asyncio.Task[None]]) -> None:
        room = asyncio.Semaphore(MAX_REQUESTS_IN_FLIGHT)
        try:
            while await session.read():
                while (length := session.next_length()) is not None:
                    if length > _BUFFER_BYTES:
                        # What one read brings is bounded by the number of sessions; larger messages share a budget.
                        await self._budget.take(length)
                        if not await self._read_whole(session, length):
                            self._budget.give_back(length)
                            return
                    message = session.next_message(length)
                    if message is None:
                        break
                    await self._receive(session, message, length, room, running)
        except ValueError as error:
            _log.warning("bad_frame", socket=str(self._path), reason=str(error))

    async def _read_whole(self, session: ProgramSession, length: int) -> bool:
        while not session.has_message(length):
            if not await session.read():
                return False
        return True

    async def _receive(
        self,
        session: ProgramSession,
        message: dict[str, Any],
        length: int,
        room: asyncio.Semaphore,
        running: set[asyncio.Task[None]],
    ) -> None:
        budgeted = length if length > _BUFFER_BYTES else 0
        op = message.get("op")
        listener = self._listeners.get(op) if isinstance(op, str) else None
        if listener is not None:
            self._budget.give_back(budgeted)
            await self._tell(listener, session, message)
            return
        if not budgeted:
            await self._budget.take(length)
        await room.acquire()
        request = asyncio.create_task(self._answer(session, message))
        running.add(request)

        def ended(request: asyncio.Task[None]) -> None:
            running.discard(request)
            room.release()
            self._budget.give_back(length)

        request.add_done_callback(ended)

    async def _tell(self, listener: Listener, session: ProgramSession, message: dict[str, Any]) -> None:
        try:
            waiting = listener(session, message)
            if waiting is not None:
                await waiting
        except ValueError as error:
            _log.warning("bad_message", socket=str(self._path), op=message["op"], reason=str(error))
        except Exception:  # noqa: BLE001 - One message must not end the connection.
            _log.exception("message_failed", op=message["op"])

    async def _answer(self, session: ProgramSession, message: dict[str, Any]) -> None:
        number, op = message.pop("id", None), message.pop("op", None)
        answer: dict[str, Any] = {"id": number, "ok": True}
        try:
            answer["value"] = await self._call(session, op, message)
        except (RequestError, StorageError) as error:
            kind = error.kind if isinstance(error, RequestError) else error.reason
            answer = _failure(number, kind, str(error))
        except Exception:  # noqa: BLE001 - A program must always get an answer.
            _log.exception("request_failed", op=str(op)[:64])
            answer = _failure(number, "INTERNAL", f"the worker failed at {op}; its log says why")
        with contextlib.suppress(ConnectionError):
            session.write(answer)
            self._cut_off_the_deaf()
            await session.drain()

    async def _call(self, session: ProgramSession, op: object, fields: Mapping[str, Any]) -> Any:
        handler = self._handlers.get(op) if isinstance(op, str) else None
        if handler is None:
            raise RequestError("UNKNOWN_OPERATION", f"there is no operation {str(op)[:64]!r} here")
        return await handler(session, fields)


def _failure(number: object, kind: str, text: str) -> dict[str, Any]:
    return {"id": number, "ok": False, "error": {"kind": kind, "text": text}}


# --- Fields of requests ------------------------------------------------------------------------


def text_field(fields: Mapping[str, Any], name: str, *, most: int = 1024) -> str:
    """Return a text; raises RequestError for anything else."""
    value = fields.get(name)
    if not isinstance(value, str) or len(value) > most:
        raise RequestError("INVALID_REQUEST", f"{name} must be a text of at most {most} characters")
    return value


def bytes_field(fields: Mapping[str, Any], name: str) -> bytes:
    """Return bytes; raises RequestError for anything else."""
    value = fields.get(name)
    if not isinstance(value, bytes):
        raise RequestError("INVALID_REQUEST", f"{name} must be bytes")
    return value


def count_field(fields: Mapping[str, Any], name: str, *, most: int) -> int:
    """Return a number from 0 to `most`; raises RequestError for anything else."""
    value = fields.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise RequestError("INVALID_REQUEST", f"{name} must be a number from 0 to {most}, not {str(value)[:32]}")
    return value
