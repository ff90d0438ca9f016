"""Chunks as they are on the wire.

Protobuf would copy each of them two or three times more. So servicers are given a view of the bytes of a message that
holds nothing but a chunk, and may answer with bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio
from qonduit_api.internal.v1 import storage_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from google.protobuf.message import Message

_LENGTH_DELIMITED: Final = 2
_LONGEST_PREFIX: Final = 6


class ChunkCodec:
    """Reads and writes one type of messages, in which a chunk has its field."""

    def __init__(self, message: type[Message]) -> None:
        self._message = message
        self._tag = message.DESCRIPTOR.fields_by_name["chunk"].number << 3 | _LENGTH_DELIMITED

    def read(self, data: bytes) -> Message | memoryview:
        """The chunk of a message that holds nothing else; any other message as it is."""
        for start in range(2, min(_LONGEST_PREFIX, len(data)) + 1):
            prefix = self._prefix(len(data) - start)
            if len(prefix) == start and data.startswith(prefix):
                return memoryview(data)[start:]
        return self._message.FromString(data)

    def write(self, answer: Message | bytes) -> bytes:
        """A message; bytes are one that holds nothing but this chunk."""
        return self._prefix(len(answer)) + answer if isinstance(answer, bytes) else answer.SerializeToString()

    def _prefix(self, size_bytes: int) -> bytes:
        """What stands before a chunk: its field, and its size in sevens of bits, the lowest first."""
        prefix = bytearray((self._tag,))
        while size_bytes > 0x7F:  # noqa: PLR2004 - Seven bits; the eighth says that more follow.
            prefix.append(size_bytes & 0x7F | 0x80)
            size_bytes >>= 7
        prefix.append(size_bytes)
        return bytes(prefix)


_CODECS: Final[Mapping[str, Mapping[str, Callable[[Any], Any]]]] = {
    "/qonduit_api.internal.v1.BlobService/PutBlob": {"request_deserializer": ChunkCodec(pb.PutBlobRequest).read},
    "/qonduit_api.internal.v1.BlobService/GetBlob": {"response_serializer": ChunkCodec(pb.GetBlobResponse).write},
    "/qonduit_api.internal.v1.SpaceService/PutFile": {"request_deserializer": ChunkCodec(pb.PutFileRequest).read},
    "/qonduit_api.internal.v1.SpaceService/GetFile": {"response_serializer": ChunkCodec(pb.GetFileResponse).write},
}


class ChunkInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc,unused-ignore]
    """Has the methods that move large content use these codecs."""

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """Gives the handler of a call its codec."""
        handler = await continuation(handler_call_details)
        codec = _CODECS.get(handler_call_details.method)
        return handler if handler is None or codec is None else handler._replace(**codec)
