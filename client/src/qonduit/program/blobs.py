"""Large bytes between a program and its agent: they never pass through frames.

A second Unix socket beside the channel's carries one small msgpack map a packet. To store, the program writes into a
window of memory that the agent gave it, part by part; the agent copies each part out, so that nothing that the program
does later changes what others read, and names what came, so that a wrong name cannot exist. To read, the agent passes a
descriptor of the file that holds the bytes, and the program maps it: all processes of a machine share one copy.

A name is a digest or a number. It stands for one content as long as the job's attempt lasts.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgpack

from qonduit.program.channel import AgentError, AgentGoneError, connect_unix

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from qonduit.program.channel import AgentChannel

SOCKET_NAME: Final = "blobs.sock"
"""Of the socket, in the folder of the channel's own."""
MAX_MESSAGE_BYTES: Final = 8192
PART_BYTES: Final = 2 * 1024**2
WINDOW_BYTES: Final = 2 * PART_BYTES
"""Two parts: one is filled while the agent takes the other."""
SMALLEST_MAPPED_BYTES: Final = 128 * 1024
"""Fewer bytes are read: a mapping of them would cost as much, and a descriptor while it lives."""

MOST_MAPPINGS: Final = 1024
"""Of a process at a time: Python keeps a descriptor for each of them."""

_MOST_VIEWS: Final = 512
"""In one call to the system, which takes 1024 at most."""
_MOST_IDLE: Final = 2


class _Waited:
    seconds = 0.0


def waited_s() -> float:
    """Return how long this process has waited for its agent's answers here so far, all threads together."""
    return _Waited.seconds


def store_parts(channel: AgentChannel, parts: Sequence[bytes | bytearray | memoryview]) -> str:
    """Store the parts one after another as one blob of this job and return its name.

    Args:
        channel: This process's channel to its agent.
        parts: C-contiguous buffers of any item type; what they hold together is stored, without a copy made here.

    Raises:
        AgentError: The agent could not keep it: BLOB_TOO_LARGE, CACHE_FULL, DISK_FULL, or storage's own reasons.
        AgentGoneError: The agent is gone.
        TypeError: A part is no C-contiguous buffer.
    """
    views = [memoryview(part).cast("B") for part in parts if memoryview(part).nbytes]
    with _connection(channel) as connection:
        return connection.store(views)


def store_blob(channel: AgentChannel, data: bytes) -> str:
    """Store bytes as a blob of this job and return their name; raises as `store_parts`."""
    return store_parts(channel, [data])


def fetch_view(channel: AgentChannel, name: str, *, writable: bool = False) -> memoryview:
    """Return the bytes of a blob, one-dimensional and of format "B".

    Larger ones are a mapping of the machine's one copy, which lives as long as the view and what was made from it; a
    process that has 1024 of them gets further ones as copies.

    Args:
        channel: This process's channel to its agent.
        name: What `store_parts` returned.
        writable: Whether the view may be written to. Nobody else sees that: the pages that change are copied then.

    Raises:
        AgentError: The agent cannot get them.
        AgentGoneError: The agent is gone.
    """
    with _connection(channel) as connection:
        descriptor, size = connection.open(name)
    try:
        if size < SMALLEST_MAPPED_BYTES or len(_mappings) >= MOST_MAPPINGS:
            data = _read(descriptor, size)
            return memoryview(bytearray(data) if writable else data)
        access = mmap.ACCESS_COPY if writable else mmap.ACCESS_READ
        mapping = mmap.mmap(descriptor, size, access=access)
    finally:
        os.close(descriptor)
    _mappings.add(mapping)
    return memoryview(mapping)


def fetch_blob(channel: AgentChannel, name: str) -> bytes:
    """Return a copy of the bytes of a blob; raises as `fetch_view`."""
    with _connection(channel) as connection:
        descriptor, size = connection.open(name)
    try:
        return _read(descriptor, size)
    finally:
        os.close(descriptor)


def _read(descriptor: int, size: int) -> bytes:
    with open(descriptor, "rb", buffering=0, closefd=False) as file:
        data = file.readall()
    if len(data) != size:
        raise AgentError("BLOB_DAMAGED", f"{len(data)} of {size} bytes could be read")
    return data


class _BlobConnection:
    """One connection to the agent's blobs, for one thread at a time."""

    def __init__(self, path: str) -> None:
        self._socket = connect_unix(path, socket.SOCK_SEQPACKET)
        self._window = -1

    def store(self, views: Iterable[memoryview]) -> str:
        views = list(views)
        total = sum(view.nbytes for view in views)
        if self._window < 0:
            _, self._window = self._ask(op="window")
        unanswered = 0
        answer: dict[str, Any] = {}
        for number, part in enumerate(_parts(views)):
            if unanswered == WINDOW_BYTES // PART_BYTES:
                answer, unanswered = self._answer()[0], unanswered - 1
            offset = number * PART_BYTES % WINDOW_BYTES
            size = os.pwritev(self._window, part, offset) if part else 0
            self._send(op="part", at=offset, size=size, total=total)
            unanswered += 1
        for _ in range(unanswered):
            answer, _ = self._answer()
        return str(answer["value"])

    def open(self, name: str) -> tuple[int, int]:
        """Return a descriptor, which is the caller's, and the size."""
        answer, descriptor = self._ask(op="open", digest=name)
        return descriptor, int(answer["value"])

    def _ask(self, **message: Any) -> tuple[dict[str, Any], int]:
        """Ask for a descriptor."""
        self._send(**message)
        answer, descriptor = self._answer()
        if descriptor < 0:
            raise AgentError("TOO_MANY_OPEN_FILES", "this process has no descriptor left: close some of its files")
        return answer, descriptor

    def _send(self, **message: Any) -> None:
        try:
            self._socket.sendall(msgpack.packb(message))
        except OSError as error:
            raise AgentGoneError(f"the agent closed its blobs: {error}") from error

    def _answer(self) -> tuple[dict[str, Any], int]:
        begun = time.perf_counter()
        try:
            body, descriptors, _, _ = socket.recv_fds(self._socket, MAX_MESSAGE_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
        except OSError as error:
            raise AgentGoneError(f"the agent closed its blobs: {error}") from error
        finally:
            _Waited.seconds += time.perf_counter() - begun
        if not body:
            raise AgentGoneError("the agent closed its blobs")
        answer = msgpack.unpackb(body)
        if not answer["ok"]:
            raise AgentError(answer["kind"], answer["text"])
        return answer, descriptors[0] if descriptors else -1

    def close(self) -> None:
        self._socket.close()
        if self._window >= 0:
            os.close(self._window)
            self._window = -1


def _parts(views: list[memoryview]) -> Iterator[list[memoryview]]:
    """Cut into lists of views of PART_BYTES together, the last one of fewer; one empty list for nothing at all."""
    part: list[memoryview] = []
    room = PART_BYTES
    for view in views:
        start = 0
        while start < view.nbytes:
            piece = view[start : start + room]
            part.append(piece)
            start += piece.nbytes
            room -= piece.nbytes
            if room == 0 or len(part) == _MOST_VIEWS:
                yield part
                part, room = [], PART_BYTES
    if part or not views:
        yield part


_mappings: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()
_idle: dict[str, list[_BlobConnection]] = {}


@contextlib.contextmanager
def _connection(channel: AgentChannel) -> Iterator[_BlobConnection]:
    """Lend a connection that no other thread uses; after an error of any kind it is not used again."""
    path = str(Path(channel.path).with_name(SOCKET_NAME))
    idle = _idle.setdefault(path, [])
    connection = idle.pop() if idle else _BlobConnection(path)
    try:
        yield connection
    except BaseException:
        connection.close()
        raise
    if len(idle) < _MOST_IDLE:
        idle.append(connection)
    else:
        connection.close()


def _forget_connections() -> None:
    """Leave the parent's connections alone in a forked child: two processes would read each other's answers."""
    for idle in _idle.values():
        for connection in idle:
            connection.close()
    _idle.clear()


os.register_at_fork(after_in_child=_forget_connections)
