"""The agent's side of `qonduit.program.blobs`: takes large bytes from a sandbox, and passes descriptors into it."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgpack
from qonduit.program.blobs import MAX_MESSAGE_BYTES, PART_BYTES, WINDOW_BYTES
from qonduit.program.channel import short_path
from qonduit_service_kit.logs import get_logger

from qonduit_worker.blob_names import is_name
from qonduit_worker.program_channel import RequestError, count_field, text_field
from qonduit_worker.storage import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from qonduit_worker.blob_scope import LocalUpload
    from qonduit_worker.blobs import JobBlobs

MAX_CONNECTIONS: Final = 64
_MOST_BYTES: Final = 2**53
_COPY_BYTES: Final = 256 * 1024
"""At a time: what was read is still in the processor's cache when it is hashed and written."""
_ACCEPT_AGAIN_S: Final = 0.1

_log = get_logger(__name__)


class BlobServer:
    """Serves one sandbox's blobs: `window`, `part` and `open`, one small msgpack map a packet, each answered in turn.

    What a program writes into its window is copied out part by part, so that nothing it does later changes what was
    stored; a connection that ends in the middle of a blob leaves nothing.
    """

    def __init__(self, path: Path, blobs: JobBlobs) -> None:
        self._path = path
        self._blobs = blobs
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            with short_path(str(self._path)) as short:
                listener.bind(short)
            listener.listen(MAX_CONNECTIONS)
            # The folder around it belongs to one sandbox alone, whose user is not this one.
            self._path.chmod(0o666)
        except BaseException:
            listener.close()
            raise
        self._listener = listener
        self._accepting = asyncio.create_task(self._accept(listener))

    async def stop(self) -> None:
        """Close all connections; safe to call twice."""
        accepting, self._accepting = self._accepting, None
        if accepting is None or self._listener is None:
            return
        tasks = [accepting, *self._connections]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._listener.close()

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = await asyncio.get_running_loop().sock_accept(listener)
            except OSError as error:  # No descriptor left, most likely.
                _log.warning("blobs_not_accepted", socket=str(self._path), reason=str(error))
                await asyncio.sleep(_ACCEPT_AGAIN_S)
                continue
            if len(self._connections) >= MAX_CONNECTIONS:
                connection.close()
                continue
            task = asyncio.create_task(self._serve(connection))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)

    async def _serve(self, connection: socket.socket) -> None:
        session = _Session(self._blobs)
        loop = asyncio.get_running_loop()
        try:
            with connection:
                while packet := await loop.sock_recv(connection, MAX_MESSAGE_BYTES):
                    answer, descriptor = await session.answer(packet)
                    try:
                        # A program that does not read has no room for its answers; it is not waited for.
                        socket.send_fds(connection, [msgpack.packb(answer)], [] if descriptor < 0 else [descriptor])
                    finally:
                        if descriptor >= 0:
                            os.close(descriptor)
        except OSError:
            pass  # It closed the connection, or was cut off.
        finally:
            session.close()


class _Session:
    """One connection."""

    def __init__(self, blobs: JobBlobs) -> None:
        self._blobs = blobs
        self._window = -1
        self._upload: LocalUpload | None = None
        self._missing_bytes = 0

    async def answer(self, packet: bytes) -> tuple[dict[str, Any], int]:
        """Return the answer to one packet, and a descriptor for the program that is the caller's, or -1."""
        try:
            message = msgpack.unpackb(packet)
            if not isinstance(message, dict):
                raise RequestError("INVALID_REQUEST", "a packet holds a map")  # noqa: TRY301
            value, descriptor = await self._call(message)
        except (RequestError, StorageError) as error:
            kind = error.kind if isinstance(error, RequestError) else error.reason
            return _failure(kind, str(error)), -1
        except (ValueError, msgpack.UnpackException):
            return _failure("INVALID_REQUEST", "not msgpack"), -1
        except Exception:  # noqa: BLE001 - A program must always get an answer.
            _log.exception("blob_request_failed")
            return _failure("INTERNAL", "the worker failed; its log says why"), -1
        return {"ok": True, "value": value}, descriptor

    async def _call(self, message: Mapping[str, Any]) -> tuple[Any, int]:
        match message.get("op"):
            case "open":
                descriptor = await self._blobs.open(_name_field(message))
                return os.fstat(descriptor).st_size, descriptor
            case "window":
                return None, os.dup(self._own_window())
            case "part":
                return await self._part(message), -1
            case op:
                raise RequestError("UNKNOWN_OPERATION", f"there is no operation {str(op)[:64]!r} here")

    def _own_window(self) -> int:
        if self._window < 0:
            # Its pages count as memory of the program, which writes them first. Nobody can make it smaller or larger.
            self._window = os.memfd_create("qonduit-window", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(self._window, WINDOW_BYTES)
            fcntl.fcntl(self._window, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        return self._window

    async def _part(self, message: Mapping[str, Any]) -> str | None:
        """Take the next part of a blob, which begins with its first one; return its name with the last one."""
        size = count_field(message, "size", most=PART_BYTES)
        offset = count_field(message, "at", most=WINDOW_BYTES - size)
        if self._upload is None:
            self._missing_bytes = count_field(message, "total", most=_MOST_BYTES)
            self._upload = await self._blobs.begin(self._missing_bytes)
        upload = self._upload
        try:
            await upload.fill(size, partial(_copy, self._own_window(), offset, size))
        except BaseException:
            self._end_upload()
            raise
        self._missing_bytes -= size
        if self._missing_bytes > 0:
            return None
        self._upload = None
        return await self._blobs.commit(upload)

    def _end_upload(self) -> None:
        upload, self._upload = self._upload, None
        if upload is not None:
            upload.discard()

    def close(self) -> None:
        """Keep nothing of what is not complete."""
        self._end_upload()
        if self._window >= 0:
            os.close(self._window)
            self._window = -1


def _name_field(message: Mapping[str, Any]) -> str:
    name = text_field(message, "digest", most=64)
    if not is_name(name):
        raise RequestError("INVALID_REQUEST", "digest must be the name that was told when the blob was stored")
    return name


def _copy(window: int, offset: int, size: int, add: Callable[[bytes | memoryview], None]) -> None:
    """Copy from the window into the file by way of a buffer: what is hashed is what is written.

    Read straight from the window it could be changed between the one and the other.
    """
    buffer = memoryview(bytearray(min(size, _COPY_BYTES)))
    while size > 0:
        count = os.preadv(window, [buffer[:size]], offset)
        add(buffer[:count])
        offset += count
        size -= count


def _failure(kind: str, text: str) -> dict[str, Any]:
    return {"ok": False, "kind": kind, "text": text[:4096]}
