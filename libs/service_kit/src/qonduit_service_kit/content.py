"""The calls by which content goes into the storage service and comes out of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qonduit_api.internal.v1 import storage_pb2

from qonduit_service_kit.chunks import chunk_call, method_of

if TYPE_CHECKING:
    import grpc.aio

_PUT_BLOB: Final = method_of(storage_pb2.DESCRIPTOR, "BlobService", "PutBlob")
_GET_BLOB: Final = method_of(storage_pb2.DESCRIPTOR, "BlobService", "GetBlob")
_PUT_FILE: Final = method_of(storage_pb2.DESCRIPTOR, "SpaceService", "PutFile")
_GET_FILE: Final = method_of(storage_pb2.DESCRIPTOR, "SpaceService", "GetFile")
METHODS: Final = (_PUT_BLOB, _GET_BLOB, _PUT_FILE, _GET_FILE)


class ContentCalls:
    """Called as the methods of the stubs are, with chunks as bytes and views of bytes (see `chunks`)."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.put_blob = chunk_call(channel, _PUT_BLOB)
        self.get_blob = chunk_call(channel, _GET_BLOB)
        self.put_file = chunk_call(channel, _PUT_FILE)
        self.get_file = chunk_call(channel, _GET_FILE)
