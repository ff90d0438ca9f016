"""The channel between a sandboxed program and the agent that runs it: frames on one Unix socket.

A frame is four bytes of length (big endian) and a msgpack map. Requests are `{"id", "op", ...}`, answers
`{"id", "ok", "value" | "error"}`, and what the agent says by itself is `{"push": name, ...}`. The path of the
socket is the capability: who can reach it is the program.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import struct
import sys
import threading
import traceback
import weakref
from typing import TYPE_CHECKING, Any

import msgpack

from qonduit.exceptions import NotAvailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

SOCKET_VARIABLE = "QONDUIT_AGENT_SOCKET"
MAX_FRAME_BYTES = 8 * 1024**2
CHUNK_BYTES = 1024**2
"""Large bytes travel in pieces of this size."""

MAX_FRAME_VALUES = 500_000
"""In all lists and maps of a frame together: an empty list is one byte on the wire and 64 in memory."""

GONE = "agent_gone"
"""A push that the channel makes itself when it breaks: whoever waits for others must not wait for ever."""

_LONGEST_ADDRESS = 107
_READ_BYTES = 256 * 1024
_LENGTH = struct.Struct(">I")


class AgentError(Exception):
    """The agent refused a request, or the request failed there.

    Attributes:
        kind: The stable name of the case, in upper snake case.
        text: What happened and what to do.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text


class AgentGoneError(ConnectionError):
    """The agent closed the channel: this program is about to be ended."""


class NotInProgramError(NotAvailableError):
    """This only works inside a program that Qonduit runs."""


def encode_frame(message: Mapping[str, Any]) -> bytes:
    """Return the bytes of one frame.

    Raises:
        ValueError: The message is larger than a frame may be.
    """
    body: bytes = msgpack.packb(message, use_bin_type=True)
    if len(body) > MAX_FRAME_BYTES:
        raise ValueError(f"a message of {len(body)} bytes exceeds the {MAX_FRAME_BYTES} bytes of a frame")
    return _LENGTH.pack(len(body)) + body


def frame_length(header: bytes) -> int:
    """Return the length that a frame's first four bytes tell."""
    length: int = _LENGTH.unpack(header)[0]
    return length


def decode_frame(body: bytes) -> dict[str, Any]:
    """Return the message of a frame's body.

    Raises:
        ValueError: It is no msgpack map with text keys, or holds too many values.
    """
    values = 0

    def counted(container: Any) -> Any:
        nonlocal values
        values += 1 + len(container)
        if values > MAX_FRAME_VALUES:
            raise ValueError(f"more than {MAX_FRAME_VALUES} values in a frame")
        return container

    try:
        message = msgpack.unpackb(
            body,
            raw=False,
            strict_map_key=True,
            list_hook=counted,
            object_hook=counted,
            max_array_len=MAX_FRAME_VALUES,
            max_map_len=MAX_FRAME_VALUES,
        )
    except Exception as error:
        raise ValueError(f"not msgpack: {error}") from error
    if not isinstance(message, dict):
        raise ValueError(f"a frame holds a map, not {type(message).__name__}")  # noqa: TRY004
    return message


class _Frames:
    """Reads frames from a socket: as many as there are with one system call."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._unread = bytearray()
        self._start = 0

    def next(self) -> dict[str, Any] | None:
        """Return the next message, None at the end of the connection."""
        while True:
            body = self._take()
            if body is not None:
                # The agent is trusted, unlike a program: no bounds are looked at.
                message: dict[str, Any] = msgpack.unpackb(body, raw=False)
                return message
            try:
                part = self._connection.recv(_READ_BYTES)
            except ConnectionError:
                return None
            if not part:
                return None
            del self._unread[: self._start]
            self._start = 0
            self._unread += part

    def _take(self) -> bytes | None:
        begin = self._start + _LENGTH.size
        if len(self._unread) < begin:
            return None
        end = begin + _LENGTH.unpack_from(self._unread, self._start)[0]
        if len(self._unread) < end:
            return None
        self._start = end
        return bytes(memoryview(self._unread)[begin:end])


class _Call:
    """One request that waits for its answer."""

    __slots__ = ("answer", "done")

    def __init__(self) -> None:
        self.answer: dict[str, Any] | None = None
        self.done = threading.Event()


class AgentChannel:
    """A program's side of the channel: blocking, for any thread, connected at its first use.

    Until a push is awaited, the calling thread reads its own answer; after that a background thread reads.
    A forked child starts with a connection of its own.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._handlers: dict[str, Callable[[Mapping[str, Any]], object]] = {}
        self._reset()
        _channels.add(self)

    def _reset(self) -> None:
        # Locks that another thread held when this process was forked would stay locked for ever.
        self._sending = threading.Lock()
        self._direct = threading.RLock()
        self._socket: socket.socket | None = None
        self._frames: _Frames | None = None
        self._reader: threading.Thread | None = None
        self._calls: dict[int, _Call] = {}
        self._last_id = 0
        self._gone: AgentGoneError | None = None

    @property
    def path(self) -> str:
        """Of the agent's socket."""
        return self._path

    def forget_connection(self) -> None:
        """Start anew in a forked child; the parent's connection stays as it is."""
        inherited = self._socket
        self._reset()
        if inherited is not None:
            inherited.close()
        if self._handlers:
            self._handlers.clear()  # They belong to objects of the parent.

    def close(self) -> None:
        """Disconnect; the next call connects again."""
        with self._direct:
            connection, reader = self._socket, self._reader
            if connection is not None:
                connection.shutdown(socket.SHUT_RDWR)
        if reader is not None:
            reader.join()
        if connection is not None:
            connection.close()
        self.forget_connection()

    def on_push(self, name: str, handler: Callable[[Mapping[str, Any]], object]) -> None:
        """Have `handler` called with the fields of each push of that name.

        It runs on the thread that reads, so that it must not call the agent itself.
        """
        with self._direct:
            self._handlers[name] = handler
            if self._reader is None:
                connection = self._connection()
                self._reader = threading.Thread(
                    target=self._read, args=(connection,), name="qonduit-agent", daemon=True
                )
                self._reader.start()

    def call(self, op: str, **fields: Any) -> Any:
        """Send a request and return the value of its answer.

        Raises:
            AgentError: The agent refused it.
            AgentGoneError: The agent is gone.
            ValueError: The request does not fit in a frame.
        """
        with self._direct:
            call, number = self._send(op, fields)
            if self._reader is None:
                return _value_of(self._await_directly(number))
        call.done.wait()
        if call.answer is None:
            raise self._gone or AgentGoneError("the agent closed the channel")
        return _value_of(call.answer)

    def notify(self, op: str, **fields: Any) -> None:
        """Send what has no answer; waits only while the agent takes nothing.

        Raises:
            AgentGoneError: The agent is gone.
            ValueError: It does not fit in a frame.
        """
        frame = encode_frame({"op": op, **fields})
        connection = self._socket
        if connection is None:
            with self._direct:
                connection = self._connection()
        with self._sending:
            if self._gone is not None:
                raise self._gone
            try:
                connection.sendall(frame)
            except OSError as error:
                raise AgentGoneError(f"the agent closed the channel: {error}") from error

    def _connection(self) -> socket.socket:
        if self._gone is not None:
            raise self._gone
        if self._socket is None:
            self._socket = connect_unix(self._path)
            self._frames = _Frames(self._socket)
        return self._socket

    def _send(self, op: str, fields: Mapping[str, Any]) -> tuple[_Call, int]:
        connection = self._connection()
        with self._sending:
            self._last_id += 1
            number = self._last_id
            call = _Call()
            if self._reader is not None:
                self._calls[number] = call
            frame = encode_frame({"id": number, "op": op, **fields})
            try:
                connection.sendall(frame)
            except OSError as error:
                self._calls.pop(number, None)
                raise AgentGoneError(f"the agent closed the channel: {error}") from error
        return call, number

    def _await_directly(self, number: int) -> dict[str, Any]:
        self._connection()
        assert self._frames is not None  # noqa: S101 - It is made with the connection.
        while True:
            message = self._frames.next()
            if message is None:
                raise AgentGoneError("the agent closed the channel")
            if message.get("id") == number:
                return message

    def _read(self, connection: socket.socket) -> None:
        frames = self._frames
        assert frames is not None  # noqa: S101 - It is made with the connection.
        try:
            while (message := frames.next()) is not None:
                self._take(message)
        except (OSError, ValueError) as error:
            self._gone = AgentGoneError(f"the channel to the agent broke: {error}")
        self._gone = self._gone or AgentGoneError("the agent closed the channel")
        for call in list(self._calls.values()):
            call.done.set()
        if connection is self._socket:
            self._take({"push": GONE})

    def _take(self, message: dict[str, Any]) -> None:
        name = message.pop("push", None)
        if name is None:
            call = self._calls.pop(message.get("id", 0), None)
            if call is not None:
                call.answer = message
                call.done.set()
            return
        handler = self._handlers.get(name)
        if handler is None:
            return
        try:
            handler(message)
        except Exception:  # noqa: BLE001 - One handler's failure must not end the thread that all calls need.
            traceback.print_exc(file=sys.stderr)


def connect_unix(path: str, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    """Return a connection to one of the agent's sockets; raises AgentGoneError."""
    connection = socket.socket(socket.AF_UNIX, kind)
    try:
        with short_path(path) as short:
            connection.connect(short)
    except OSError as error:
        connection.close()
        raise AgentGoneError(f"the agent cannot be reached at {path}: {error}") from error
    return connection


@contextlib.contextmanager
def short_path(path: str) -> Iterator[str]:
    """Give a name of a socket that fits in an address, which holds 107 bytes, however deep its folder lies."""
    folder, name = os.path.split(path)
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}" if len(os.fsencode(path)) > _LONGEST_ADDRESS else path
    finally:
        os.close(descriptor)


def _value_of(answer: Mapping[str, Any]) -> Any:
    if answer.get("ok"):
        return answer.get("value")
    error = answer.get("error") or {}
    raise AgentError(str(error.get("kind", "INTERNAL")), str(error.get("text", "the agent gave no reason")))


_channels: weakref.WeakSet[AgentChannel] = weakref.WeakSet()


def _forget_connections() -> None:
    for channel in list(_channels):
        channel.forget_connection()


os.register_at_fork(after_in_child=_forget_connections)


def in_program() -> bool:
    """Tell whether this process belongs to a program that an agent runs."""
    return SOCKET_VARIABLE in os.environ


@functools.cache
def _channel_at(path: str) -> AgentChannel:
    return AgentChannel(path)


def agent() -> AgentChannel:
    """Return this process's channel to its agent.

    Raises:
        NotInProgramError: No agent runs this process.
    """
    path = os.environ.get(SOCKET_VARIABLE)
    if path is None:
        raise NotInProgramError(
            "this works only inside a program that Qonduit runs: upload it with "
            "ServerlessClient.upload() and start it with run()"
        )
    return _channel_at(path)
