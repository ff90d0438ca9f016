"""BlobService."""

# ruff: noqa: N802 - gRPC names its methods so.

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from qonduit_api.internal.v1 import storage_pb2 as pb
from qonduit_api.internal.v1 import storage_pb2_grpc as pb_grpc

from qonduit_storage.blobs import Blob
from qonduit_storage.errors import RequestError
from qonduit_storage.servicers.uploads import chunks_of, header_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from qonduit_storage.blobs import BlobStore
    from qonduit_storage.servicers.desk import Desk

STAT_LIMIT = 10_000
SMALL_BYTES = 512 * 1024


class BlobServicer(pb_grpc.BlobServiceServicer):
    """Blobs over gRPC."""

    def __init__(self, desk: Desk, blobs: BlobStore) -> None:
        self._desk = desk
        self._blobs = blobs

    async def PutBlob(
        self, request_iterator: AsyncIterator[pb.PutBlobRequest | memoryview], context: Any
    ) -> pb.PutBlobResponse:
        """Stores bytes."""
        with self._desk.receiving(request_iterator, context) as (access, messages):
            access.write_blobs()
            header: pb.PutBlobHeader = await header_of(messages)
            blob = Blob(header.digest, header.size_bytes)
            created = await self._put(blob, chunks_of(messages))
            return pb.PutBlobResponse(digest=blob.digest, size_bytes=blob.size_bytes, created=created)

    async def PutSmallBlob(self, request: pb.PutSmallBlobRequest, context: Any) -> pb.PutSmallBlobResponse:
        """Stores bytes that came in one message."""

        async def content() -> AsyncIterator[bytes]:
            yield request.content

        with self._desk.serving(context) as access:
            access.write_blobs()
            created = await self._put(Blob(request.digest, len(request.content)), content())
            return pb.PutSmallBlobResponse(created=created)

    async def _put(self, blob: Blob, chunks: AsyncIterator[bytes | memoryview]) -> bool:
        created = await self._blobs.put(blob, chunks)
        if created:
            self._desk.metrics.stored.labels("blob").inc(blob.size_bytes)
        return created

    async def GetBlob(self, request: pb.GetBlobRequest, context: Any) -> AsyncIterator[Any]:
        """Streams bytes, which become messages as they are sent."""
        with self._desk.serving(context) as access:
            access.read_blobs()
            served = self._desk.metrics.served.labels("blob")
            async for piece in self._blobs.read(request.digest, request.offset):
                yield piece
                served.inc(len(piece))

    async def GetSmallBlob(self, request: pb.GetSmallBlobRequest, context: Any) -> pb.GetSmallBlobResponse:
        """Returns bytes in one message."""
        with self._desk.serving(context) as access:
            access.read_blobs()
            content = bytearray()
            async with aclosing(self._blobs.read(request.digest, 0)) as pieces:
                async for piece in pieces:
                    content += piece
                    if len(content) > SMALL_BYTES:
                        raise RequestError(f"The blob has more than {SMALL_BYTES:,} bytes. Stream it.", field="digest")
            self._desk.metrics.served.labels("blob").inc(len(content))
            return pb.GetSmallBlobResponse(content=bytes(content))

    async def StatBlobs(self, request: pb.StatBlobsRequest, context: Any) -> pb.StatBlobsResponse:
        """Tells which blobs are there."""
        with self._desk.serving(context) as access:
            access.read_blobs()
            if len(request.digests) > STAT_LIMIT:
                raise RequestError(f"Ask for at most {STAT_LIMIT:,} digests at once.", field="digests")
            look = self._blobs.touch if request.touch else self._blobs.find
            found = [await look(digest) for digest in request.digests]
            stats = [pb.BlobStat(digest=blob.digest, size_bytes=blob.size_bytes) for blob in found if blob is not None]
            return pb.StatBlobsResponse(blobs=stats)

    async def ListBlobs(self, request: pb.ListBlobsRequest, context: Any) -> pb.ListBlobsResponse:
        """Lists what may be garbage."""
        with self._desk.serving(context) as access:
            access.collect_garbage()
            digests, token = await self._blobs.unused(request.unused_seconds, request.page_token)
            return pb.ListBlobsResponse(digests=digests, next_page_token=token)

    async def DeleteBlobs(self, request: pb.DeleteBlobsRequest, context: Any) -> pb.DeleteBlobsResponse:
        """Deletes garbage."""
        with self._desk.serving(context) as access:
            access.collect_garbage()
            kept = await self._blobs.delete(request.digests, request.unused_seconds)
            return pb.DeleteBlobsResponse(kept_digests=kept)
