"""The agent's side of the storage service; the only module that knows its protocol."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO, Final, TypeVar

import grpc
from qonduit_api.internal.v1 import storage_pb2, storage_pb2_grpc
from qonduit_service_kit.content import ContentCalls
from qonduit_service_kit.errors import from_rpc_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

CHUNK_BYTES: Final = 1024**2
_GO_ON_FROM_BYTES: Final = 8 * 1024**2
"""What is smaller is sent again as quickly as it is asked how much of it arrived."""
_MAYBE_OF_ITS_BEGINNING: Final = frozenset({"DIGEST_MISMATCH", "INVALID_FILE_CONTENT"})
"""What storage says of an upload that went on, where the bytes that it had from before are others than they were."""
_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 2.0
_TRANSIENT: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,  # By storage, as it ends; a canceled task sees CancelledError.
    }
)

Value = TypeVar("Value")


class StorageError(Exception):
    """The storage service refused, or could not be reached.

    Attributes:
        reason: The stable name of the case, such as BLOB_NOT_FOUND; UNAVAILABLE when nobody answered.
        transient: Whether the same call may succeed a little later.
    """

    def __init__(self, reason: str, text: str, *, transient: bool = False) -> None:
        super().__init__(text)
        self.reason = reason
        self.transient = transient


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file of a user's space."""

    name: str
    size_bytes: int
    digest: str
    stored_at: float = field(default=0.0, compare=False)
    """Seconds since 1970."""


@dataclass(frozen=True, slots=True)
class SpaceUsage:
    """How full a space is."""

    file_count: int
    used_bytes: int
    limit_bytes: int
    """0 for no limit."""


class Storage:
    """The storage service with one ticket: what it allows, this may do.

    Calls that find nobody are tried again for `patience_s` seconds from then on; all of them may be repeated safely.
    """

    def __init__(self, channel: grpc.aio.Channel, ticket: str, *, patience_s: float = 60.0) -> None:
        self._blobs = storage_pb2_grpc.BlobServiceStub(channel)
        self._spaces = storage_pb2_grpc.SpaceServiceStub(channel)
        self._logs = storage_pb2_grpc.LogServiceStub(channel)
        self._content = ContentCalls(channel)
        self._metadata = (("authorization", f"Bearer {ticket}"),)
        self._patience_s = patience_s

    # --- Blobs ---------------------------------------------------------------------------------

    async def put_blob(self, digest: str, source: bytes | Path) -> None:
        """Store bytes, or a file's bytes, under their sha256; returns once they are durable."""
        size = len(source) if isinstance(source, bytes) else _size(source)

        async def requests() -> AsyncIterator[storage_pb2.PutBlobRequest | bytes]:
            header = storage_pb2.PutBlobHeader(digest=digest, size_bytes=size)
            yield storage_pb2.PutBlobRequest(header=header)
            async for chunk in _chunks(source):
                yield chunk

        async def put() -> None:
            await self._content.put_blob(requests(), metadata=self._metadata)

        await self._patiently(put)

    async def get_blob(self, digest: str, target: Path) -> None:
        """Write a blob's bytes into a new file and check them; raises StorageError."""

        async def get() -> None:
            request = storage_pb2.GetBlobRequest(digest=digest)
            sha256 = hashlib.sha256()
            with target.open("wb") as file:
                async for chunk in self._content.get_blob(request, metadata=self._metadata):
                    await asyncio.to_thread(_take, chunk, file, sha256)
            if sha256.hexdigest() != digest:
                raise StorageError("BLOB_DAMAGED", f"blob {digest} arrived damaged", transient=True)

        await self._patiently(get)

    # --- Files ---------------------------------------------------------------------------------

    async def list_files(self, space: str) -> list[StoredFile]:
        """List a space, by name."""
        files: list[StoredFile] = []
        token = ""
        while True:
            request = storage_pb2.ListSpaceRequest(space=space, page_token=token)

            async def page(request: storage_pb2.ListSpaceRequest = request) -> storage_pb2.ListSpaceResponse:
                answer: storage_pb2.ListSpaceResponse = await self._spaces.ListSpace(request, metadata=self._metadata)
                return answer

            answer = await self._patiently(page)
            files += [_stored(file) for file in answer.files]
            token = answer.next_page_token
            if not token:
                return files

    async def usage(self, space: str) -> SpaceUsage:
        """Tell how full a space is."""

        async def ask() -> SpaceUsage:
            request = storage_pb2.GetSpaceUsageRequest(space=space)
            told = await self._spaces.GetSpaceUsage(request, metadata=self._metadata)
            return SpaceUsage(told.file_count, told.used_bytes, told.limit_bytes)

        return await self._patiently(ask)

    async def stat_file(self, space: str, name: str) -> StoredFile:
        """Tell about a file."""

        async def stat() -> StoredFile:
            request = storage_pb2.StatSpaceFileRequest(space=space, name=name)
            answer = await self._spaces.StatSpaceFile(request, metadata=self._metadata)
            return _stored(answer.file)

        return await self._patiently(stat)

    async def get_file(self, space: str, name: str, target: Path) -> StoredFile:
        """Write a file's bytes into a new file and check them."""

        async def get() -> StoredFile:
            request = storage_pb2.GetFileRequest(space=space, name=name)
            sha256 = hashlib.sha256()
            found: StoredFile | None = None
            with target.open("wb") as file:
                async for answer in self._content.get_file(request, metadata=self._metadata):
                    if isinstance(answer, memoryview):
                        await asyncio.to_thread(_take, answer, file, sha256)
                    else:
                        found = _stored(answer.file)
            if found is None or sha256.hexdigest() != found.digest:
                raise StorageError("FILE_DAMAGED", f"file {name!r} arrived damaged", transient=True)
            return found

        return await self._patiently(get)

    async def put_file(self, space: str, name: str, digest: str, source: Path) -> StoredFile:
        """Store a file under its name; storage refuses what breaks its rules, with a reason.

        A try goes on where an earlier one broke off.
        """
        header = storage_pb2.PutFileHeader(space=space, name=name, size_bytes=_size(source), digest=digest)

        async def put() -> StoredFile:
            header.offset = await self._received_bytes(header)
            try:
                return await self._send_file(header, source)
            except grpc.aio.AioRpcError as error:
                if not header.offset or _error(error).reason not in _MAYBE_OF_ITS_BEGINNING:
                    raise
            # What was there from before is gone now, and all of it is sent.
            header.offset = 0
            return await self._send_file(header, source)

        return await self._patiently(put)

    async def _received_bytes(self, header: storage_pb2.PutFileHeader) -> int:
        if header.size_bytes < _GO_ON_FROM_BYTES:
            return 0
        request = storage_pb2.StatUploadRequest(
            space=header.space, name=header.name, size_bytes=header.size_bytes, digest=header.digest
        )
        answer: storage_pb2.StatUploadResponse = await self._spaces.StatUpload(request, metadata=self._metadata)
        return answer.received_bytes

    async def _send_file(self, header: storage_pb2.PutFileHeader, source: Path) -> StoredFile:
        async def requests() -> AsyncIterator[storage_pb2.PutFileRequest | bytes]:
            yield storage_pb2.PutFileRequest(header=header)
            async for chunk in _chunks(source, header.offset):
                yield chunk

        return _stored((await self._content.put_file(requests(), metadata=self._metadata)).file)

    async def delete_file(self, space: str, name: str) -> None:
        """Delete a file."""

        async def delete() -> None:
            request = storage_pb2.DeleteSpaceFileRequest(space=space, name=name)
            await self._spaces.DeleteSpaceFile(request, metadata=self._metadata)

        await self._patiently(delete)

    # --- Logs ----------------------------------------------------------------------------------

    async def append_log(self, log: str, attempt: int, pieces: AsyncIterator[tuple[int, bytes]]) -> AsyncIterator[int]:
        """Append (offset, bytes) pieces on one stream; yields each offset up to which all is durable."""

        async def requests() -> AsyncIterator[storage_pb2.AppendLogRequest]:
            async for offset, chunk in pieces:
                yield storage_pb2.AppendLogRequest(log=log, attempt=attempt, writer_offset=offset, chunk=chunk)

        try:
            async for answer in self._logs.AppendLog(requests(), metadata=self._metadata):
                yield answer.writer_offset
        except grpc.aio.AioRpcError as error:
            raise _error(error) from error

    async def close_log(self, log: str, attempt: int) -> None:
        """Mark a log as complete; StorageError if a newer attempt writes it."""

        async def close() -> None:
            request = storage_pb2.CloseLogRequest(log=log, attempt=attempt)
            await self._logs.CloseLog(request, metadata=self._metadata)

        await self._patiently(close)

    async def _patiently(self, call: Callable[[], Awaitable[Value]]) -> Value:
        loop = asyncio.get_running_loop()
        until: float | None = None
        pause = _PAUSE_S
        while True:
            try:
                return await call()
            except grpc.aio.AioRpcError as error:
                found = _error(error)
            except StorageError as error:
                found = error
            # Not from its beginning: an upload that breaks off late has taken longer than that.
            until = until or loop.time() + self._patience_s
            if not found.transient or loop.time() + pause > until:
                raise found
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - Jitter is no secret.
            pause = min(2 * pause, _LONGEST_PAUSE_S)


async def _chunks(source: bytes | Path, offset: int = 0) -> AsyncIterator[bytes]:
    if isinstance(source, bytes):
        for start in range(offset, len(source), CHUNK_BYTES):
            yield source[start : start + CHUNK_BYTES]
        return
    with source.open("rb") as file:
        file.seek(offset)
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _take(chunk: memoryview, file: BinaryIO, sha256: hashlib._Hash) -> None:
    """Keep a chunk; in a thread, since a megabyte holds up the event loop for a millisecond."""
    sha256.update(chunk)
    try:
        file.write(chunk)
        file.flush()
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        raise StorageError("DISK_FULL", f"the worker's disk is full after {file.tell():,} bytes") from error


def _size(source: Path) -> int:
    return source.stat().st_size


def _stored(file: storage_pb2.SpaceFile) -> StoredFile:
    stored_at = file.create_time.ToNanoseconds() / 1e9
    return StoredFile(file.name, file.size_bytes, file.digest, stored_at)


def _error(error: grpc.aio.AioRpcError) -> StorageError:
    found = from_rpc_error(error)
    return StorageError(found.reason, found.text, transient=found.code in _TRANSIENT)
