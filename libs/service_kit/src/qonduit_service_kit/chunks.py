"""Chunks as they are on the wire.

Protobuf would copy each of them two or three times more. So servicers, and who calls them, are given a view of the
bytes of a message that holds a chunk, and may send bytes, or such a view, in its place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message_factory import GetMessageClass

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from google.protobuf.descriptor import FileDescriptor, MethodDescriptor
    from google.protobuf.message import Message

Chunk: TypeAlias = bytes | memoryview
"""What goes on as a view of what was received is sent as the message that it came in."""

_LENGTH_DELIMITED: Final = 2
_HIGHEST_NUMBER: Final = 15
"""Of fields whose tags take one byte."""
_LONGEST_PREFIX: Final = 6


class ChunkCodec:
    """Reads and writes one type of messages, which hold a chunk, or a chunk or some other part."""

    def __init__(self, message: type[Message]) -> None:
        chunk = message.DESCRIPTOR.fields_by_name["chunk"]
        if chunk.number > _HIGHEST_NUMBER:
            raise ValueError(f"the chunk of {message.DESCRIPTOR.full_name} has a number of more than one byte")
        self._message = message
        self._part = chunk.containing_oneof
        self._tag = chunk.number << 3 | _LENGTH_DELIMITED

    def read(self, data: bytes) -> Message | memoryview:
        """The chunk of a message, or one that holds another part as it is."""
        for start in range(2, min(_LONGEST_PREFIX, len(data)) + 1):
            prefix = self._prefix(len(data) - start)
            if len(prefix) == start and data.startswith(prefix):
                return memoryview(data)[start:]
        # It holds another part, nothing, or a chunk with something beside it that is not known here.
        message: Any = self._message.FromString(data)
        is_chunk = self._part is None or message.WhichOneof(self._part.name) == "chunk"
        return memoryview(message.chunk) if is_chunk else message

    def write(self, answer: Message | Chunk) -> bytes:
        """A message; bytes, or a view of some, are one that holds nothing but this chunk."""
        if not isinstance(answer, Chunk):
            return answer.SerializeToString()
        prefix = self._prefix(len(answer))
        return _message_of(answer, prefix) or prefix + answer

    def _prefix(self, size_bytes: int) -> bytes:
        """What stands before a chunk: its field, and its size in sevens of bits, the lowest first."""
        prefix = bytearray((self._tag,))
        while size_bytes > 0x7F:  # noqa: PLR2004 - Seven bits; the eighth says that more follow.
            prefix.append(size_bytes & 0x7F | 0x80)
            size_bytes >>= 7
        prefix.append(size_bytes)
        return bytes(prefix)


def _message_of(chunk: Chunk, prefix: bytes) -> bytes:
    """The message that a chunk was read from, if it is the same as the one to be written; else nothing."""
    whole = chunk.obj if isinstance(chunk, memoryview) else b""
    if not isinstance(whole, bytes) or len(whole) != len(prefix) + len(chunk) or not whole.startswith(prefix):
        return b""
    if len(chunk) < len(prefix):  # Too little to tell, and as quickly copied.
        return b""
    # A part of it that lies further ahead would begin with an end of the prefix.
    other = any(prefix.endswith(bytes(chunk[:size])) for size in range(1, len(prefix) + 1))
    return b"" if other else whole


def method_of(file: FileDescriptor, service: str, name: str) -> MethodDescriptor:
    """A method of a service in a file of the API."""
    return file.services_by_name[service].methods_by_name[name]


class ChunkInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc,unused-ignore]
    """Has methods that move large content, which stream either in or out, read and write their chunks so."""

    def __init__(self, *methods: MethodDescriptor) -> None:
        self._codecs: dict[str, dict[str, Callable[[Any], Any]]] = {
            _path(method): (
                {"request_deserializer": ChunkCodec(GetMessageClass(method.input_type)).read}
                if method.client_streaming
                else {"response_serializer": ChunkCodec(GetMessageClass(method.output_type)).write}
            )
            for method in methods
        }

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """Gives the handler of a call its codec."""
        handler = await continuation(handler_call_details)
        codec = self._codecs.get(handler_call_details.method)
        return handler if handler is None or codec is None else handler._replace(**codec)


def chunk_call(channel: grpc.aio.Channel, method: MethodDescriptor) -> Any:
    """What calls a method as a stub does, but sends or gives chunks so; the method streams either in or out."""
    request, answer = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
    if method.client_streaming:
        return channel.stream_unary(_path(method), ChunkCodec(request).write, answer.FromString)
    return channel.unary_stream(_path(method), request.SerializeToString, ChunkCodec(answer).read)


def _path(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"
