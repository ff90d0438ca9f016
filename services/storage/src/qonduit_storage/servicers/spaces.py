"""SpaceService."""

# ruff: noqa: N802 - gRPC names its methods so.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.timestamp_pb2 import Timestamp
from qonduit_api.internal.v1 import storage_pb2 as pb
from qonduit_api.internal.v1 import storage_pb2_grpc as pb_grpc

from qonduit_storage.servicers.uploads import chunks_of, header_of
from qonduit_storage.spaces.store import OfferedFile

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from qonduit_storage.servicers.desk import Desk
    from qonduit_storage.spaces.records import FileRecord
    from qonduit_storage.spaces.store import SpaceStore


class SpaceServicer(pb_grpc.SpaceServiceServicer):
    """Users' files over gRPC."""

    def __init__(self, desk: Desk, spaces: SpaceStore) -> None:
        self._desk = desk
        self._spaces = spaces

    async def PutFile(
        self, request_iterator: AsyncIterator[pb.PutFileRequest | memoryview], context: Any
    ) -> pb.PutFileResponse:
        """Stores a file."""
        with self._desk.receiving(request_iterator, context) as (access, messages):
            header: pb.PutFileHeader = await header_of(messages)
            access.write_space(header.space)
            offer = OfferedFile(header.space, header.name, header.size_bytes, header.digest, header.offset)
            record = await self._spaces.put(offer, chunks_of(messages), limit_bytes=access.limit_bytes(header.space))
            self._desk.metrics.stored.labels("file").inc(record.size_bytes)
            return pb.PutFileResponse(file=_to_proto(record))

    async def StatUpload(self, request: pb.StatUploadRequest, context: Any) -> pb.StatUploadResponse:
        """Tells how much of an upload that broke off is here."""
        with self._desk.serving(context) as access:
            access.write_space(request.space)
            offer = OfferedFile(request.space, request.name, request.size_bytes, request.digest)
            received = await self._spaces.received_bytes(offer, limit_bytes=access.limit_bytes(request.space))
            return pb.StatUploadResponse(received_bytes=received)

    async def GetFile(self, request: pb.GetFileRequest, context: Any) -> AsyncIterator[Any]:
        """Streams a file: what it is, then its bytes, which become messages as they are sent."""
        with self._desk.serving(context) as access:
            access.read_space(request.space)
            served = self._desk.metrics.served.labels("file")
            async with self._spaces.read(request.space, request.name, request.offset) as (record, pieces):
                yield pb.GetFileResponse(file=_to_proto(record))
                async for piece in pieces:
                    yield piece
                    served.inc(len(piece))

    async def ListSpace(self, request: pb.ListSpaceRequest, context: Any) -> pb.ListSpaceResponse:
        """Lists a space."""
        with self._desk.serving(context) as access:
            access.read_space(request.space)
            records, token = await self._spaces.page(request.space, request.page_size, request.page_token)
            return pb.ListSpaceResponse(files=[_to_proto(record) for record in records], next_page_token=token)

    async def StatSpaceFile(self, request: pb.StatSpaceFileRequest, context: Any) -> pb.StatSpaceFileResponse:
        """Tells about a file."""
        with self._desk.serving(context) as access:
            access.read_space(request.space)
            return pb.StatSpaceFileResponse(file=_to_proto(await self._spaces.stat(request.space, request.name)))

    async def GetSpaceUsage(self, request: pb.GetSpaceUsageRequest, context: Any) -> pb.GetSpaceUsageResponse:
        """Tells how full a space is."""
        with self._desk.serving(context) as access:
            access.read_space(request.space)
            count, used = await self._spaces.usage(request.space)
            limit = access.limit_bytes(request.space)
            return pb.GetSpaceUsageResponse(file_count=count, used_bytes=used, limit_bytes=limit)

    async def DeleteSpaceFile(self, request: pb.DeleteSpaceFileRequest, context: Any) -> pb.DeleteSpaceFileResponse:
        """Deletes a file."""
        with self._desk.serving(context) as access:
            access.write_space(request.space)
            await self._spaces.delete(request.space, request.name)
            return pb.DeleteSpaceFileResponse()


def _to_proto(record: FileRecord) -> pb.SpaceFile:
    stored_at = Timestamp()
    stored_at.FromNanoseconds(record.stored_at_ns)
    return pb.SpaceFile(name=record.name, size_bytes=record.size_bytes, digest=record.digest, create_time=stored_at)
