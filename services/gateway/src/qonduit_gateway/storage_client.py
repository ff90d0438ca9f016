"""The gateway's calls to the storage service."""

from __future__ import annotations

import asyncio
import hashlib
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
import grpc.aio
from qonduit_api.internal.v1 import storage_pb2, storage_pb2_grpc
from qonduit_service_kit.content import ContentCalls
from qonduit_service_kit.errors import ApiError, from_rpc_error
from qonduit_service_kit.rpc import channel
from qonduit_service_kit.tickets import Ticket

from qonduit_gateway.lately_stored import LatelyStored

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterator
    from pathlib import Path

    from qonduit_service_kit.chunks import Chunk
    from qonduit_service_kit.tickets import TicketSigner

Request = TypeVar("Request")

CHUNK_BYTES = 512 * 1024
_CALL_TIMEOUT_S = 30.0
_NO_ANSWER = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,  # By storage, as it ends; what is canceled here sees CancelledError.
    }
)
_TICKET_S = 3600.0


class StorageClient:
    """Storage as the gateway uses it. Its refusals come through as ApiError, with their reason and text.

    What it has just stored it does not store again for `remember_s` seconds: as long as storage surely keeps it.
    """

    def __init__(self, address: str, signer: TicketSigner, *, ca: Path | None = None, remember_s: float = 0.0) -> None:
        self._address = address
        self._lately = LatelyStored(remember_s)
        self._signer = signer
        self._ca = ca
        self._channel: grpc.aio.Channel | None = None
        self._own_ticket = ""
        self._own_ticket_until = 0.0

    async def start(self) -> None:
        """Open the channel; storage itself may come later."""
        self._channel = channel(self._address, ca=self._ca)
        self._blobs = storage_pb2_grpc.BlobServiceStub(self._channel)
        self._spaces = storage_pb2_grpc.SpaceServiceStub(self._channel)
        self._logs = storage_pb2_grpc.LogServiceStub(self._channel)
        self._content = ContentCalls(self._channel)

    async def stop(self) -> None:
        """Close the channel; safe to call twice."""
        opened, self._channel = self._channel, None
        if opened is not None:
            await opened.close()

    async def put_bytes(self, content: bytes) -> str:
        """Store bytes as a blob and return their digest, once they are durable."""
        digest = hashlib.sha256(content).hexdigest()
        if digest in self._lately:
            return digest
        asked_at = self._lately.now()
        how: dict[str, Any] = {"metadata": self._service(), "timeout": _CALL_TIMEOUT_S, "wait_for_ready": True}
        with self._translated():
            if len(content) <= CHUNK_BYTES:
                await self._blobs.PutSmallBlob(storage_pb2.PutSmallBlobRequest(digest=digest, content=content), **how)
            else:
                await self._content.put_blob(_parts(digest, content), **how)
        self._lately.add(digest, asked_at)
        return digest

    def open_blob(self, digest: str, size_bytes: int) -> Upload:
        """Begin to store a blob piece by piece."""
        header = storage_pb2.PutBlobRequest(header=storage_pb2.PutBlobHeader(digest=digest, size_bytes=size_bytes))
        return Upload(self, self._content.put_blob(metadata=self._service()), header)

    def open_file(self, user: str, header: storage_pb2.PutFileHeader, *, limit_bytes: int) -> Upload:
        """Begin to store a file piece by piece; all files of its space may have `limit_bytes` (0: no limit)."""
        call = self._content.put_file(metadata=self._for_space(user, header.space, limit_bytes))
        return Upload(self, call, storage_pb2.PutFileRequest(header=header))

    async def blob(self, digest: str, size_bytes: int | None = None) -> AsyncGenerator[Chunk, None]:
        """Stream a blob's bytes; of a size that is known to be small, they come in one message."""
        if size_bytes is not None and size_bytes <= CHUNK_BYTES:
            wanted = storage_pb2.GetSmallBlobRequest(digest=digest)
            with self._translated():
                small = await self._blobs.GetSmallBlob(wanted, metadata=self._service(), timeout=_CALL_TIMEOUT_S)
            yield small.content
            return
        request = storage_pb2.GetBlobRequest(digest=digest)
        async for chunk in self._stream(self._content.get_blob(request, metadata=self._service())):
            yield chunk

    async def blob_size(self, digest: str) -> int | None:
        """Return a blob's size, or None if it is not there; one that is there stays for a while."""
        request = storage_pb2.StatBlobsRequest(digests=[digest], touch=True)
        with self._translated():
            answer = await self._blobs.StatBlobs(request, metadata=self._service(), timeout=_CALL_TIMEOUT_S)
        return next((blob.size_bytes for blob in answer.blobs if blob.digest == digest), None)

    async def log(
        self, key: str, offset: int, *, follow: bool, tail_lines: int = 0
    ) -> AsyncIterator[storage_pb2.ReadLogResponse]:
        """Stream a log, from an offset or from its last lines on."""
        request = storage_pb2.ReadLogRequest(log=key, offset=offset, follow=follow, tail_lines=tail_lines)
        async for answer in self._stream(self._logs.ReadLog(request, metadata=self._service())):
            yield answer

    async def close_log(self, key: str) -> None:
        """Mark a log as complete; may be repeated."""
        request = storage_pb2.CloseLogRequest(log=key)
        with self._translated():
            await self._logs.CloseLog(request, metadata=self._service(), timeout=_CALL_TIMEOUT_S)

    async def delete_log(self, key: str) -> None:
        """Delete a log; may be repeated."""
        request = storage_pb2.DeleteLogRequest(log=key)
        with self._translated():
            await self._logs.DeleteLog(request, metadata=self._service(), timeout=_CALL_TIMEOUT_S)

    async def delete_blobs(self, digests: Collection[str], *, unused_s: float) -> set[str]:
        """Delete blobs, and return those that are kept, since they were touched less than `unused_s` seconds ago."""
        if not digests:
            return set()
        request = storage_pb2.DeleteBlobsRequest(digests=digests, unused_seconds=unused_s)
        with self._translated():
            answer = await self._blobs.DeleteBlobs(request, metadata=self._service(), timeout=_CALL_TIMEOUT_S)
        return set(answer.kept_digests)

    async def unused_blobs(self, unused_s: float) -> AsyncIterator[list[str]]:
        """Yield the digests of blobs that nobody touched for `unused_s` seconds, some at a time."""
        token = ""
        while True:
            request = storage_pb2.ListBlobsRequest(unused_seconds=unused_s, page_token=token)
            with self._translated():
                answer = await self._blobs.ListBlobs(request, metadata=self._service(), timeout=_CALL_TIMEOUT_S)
            if answer.digests:
                yield list(answer.digests)
            token = answer.next_page_token
            if not token:
                return

    def file(
        self, user: str, request: storage_pb2.GetFileRequest
    ) -> AsyncIterator[storage_pb2.GetFileResponse | memoryview]:
        """Stream a file for a user who may read its space: what it is, then its chunks."""
        return self._stream(self._content.get_file(request, metadata=self._for_space(user, request.space)))

    async def space_call(self, user: str, name: str, request: Any, *, limit_bytes: int = 0) -> Any:
        """Make one of SpaceService's simple calls for a user who may use the space that it names."""
        metadata = self._for_space(user, request.space, limit_bytes)
        with self._translated():
            return await getattr(self._spaces, name)(
                request, metadata=metadata, timeout=_CALL_TIMEOUT_S, wait_for_ready=True
            )

    async def check_file(self, user: str, space: str, name: str) -> None:
        """Raise ApiError unless there is such a file in a space of a user's."""
        asked = storage_pb2.StatSpaceFileRequest(space=space, name=name)
        await self.space_call(user, "StatSpaceFile", asked)

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn what gRPC raises into what callers of this service understand."""
        with self._translated():
            yield

    async def _stream(self, call: Any) -> AsyncIterator[Any]:
        try:
            with self._translated():
                async for answer in call:
                    yield answer
        finally:
            # The reader may have gone away in the middle: storage must stop as well.
            call.cancel()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except grpc.aio.AioRpcError as error:
            raise self._refusal(error) from error

    def _refusal(self, error: grpc.aio.AioRpcError) -> ApiError:
        refusal = from_rpc_error(error)
        if refusal.reason != "UNKNOWN" and refusal.code not in {
            grpc.StatusCode.UNAUTHENTICATED,
            grpc.StatusCode.PERMISSION_DENIED,
        }:
            return refusal
        if refusal.code in _NO_ANSWER:
            text = f"The storage service at {self._address} does not answer. Try again in a moment."
            return ApiError(grpc.StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE", text)
        text = f"The storage service refused the gateway ({refusal.code.name}: {refusal.text})."
        return ApiError(grpc.StatusCode.INTERNAL, "STORAGE_REFUSED", text)

    def _service(self) -> tuple[tuple[str, str], ...]:
        # Signing costs as much as a transaction, so that one ticket serves for half its time.
        if time.monotonic() >= self._own_ticket_until:
            self._own_ticket_until = time.monotonic() + _TICKET_S / 2
            ticket = Ticket.lasting("gateway", _TICKET_S, service="gateway", blobs="rw")
            self._own_ticket = self._signer.sign(ticket)
        return (("authorization", f"Bearer {self._own_ticket}"),)

    def _for_space(self, user: str, space: str, limit_bytes: int = 0) -> tuple[tuple[str, str], ...]:
        ticket = Ticket.lasting(user, _TICKET_S, read_space=space, write_space=space, write_limit_bytes=limit_bytes)
        return self._bearer(ticket)

    def _bearer(self, ticket: Ticket) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self._signer.sign(ticket)}"),)


class Upload:
    """An upload to storage in progress; each `send` waits until storage takes more."""

    def __init__(self, client: StorageClient, call: Any, header: object) -> None:
        self._client = client
        self._call = call
        self._header = header
        self._begun = False

    async def send(self, chunk: Chunk) -> bool:
        """Send the next piece; False when storage has heard enough and `finish` tells what came of it."""
        try:
            if not self._begun:
                self._begun = True
                await self._call.write(self._header)
            if self._call.done():
                return False
            if chunk:
                await self._call.write(chunk)
        except (grpc.aio.AioRpcError, grpc.aio.UsageError, grpc.aio.InternalError, asyncio.InvalidStateError):
            # An early end: the bytes were there already, storage refused, or it is away. The answer tells which.
            return False
        return True

    async def finish(self) -> Any:
        """End the upload and return storage's answer; its refusal is raised as ApiError."""
        await self.send(b"")
        with self._client.translated():
            if not self._call.done():
                await self._call.done_writing()
            return await self._call

    def abandon(self) -> None:
        """Give the upload up; storage keeps nothing of it."""
        self._call.cancel()


async def _parts(digest: str, content: bytes) -> AsyncIterator[storage_pb2.PutBlobRequest | Chunk]:
    yield storage_pb2.PutBlobRequest(header=storage_pb2.PutBlobHeader(digest=digest, size_bytes=len(content)))
    for start in range(0, len(content), CHUNK_BYTES):
        yield content[start : start + CHUNK_BYTES]
