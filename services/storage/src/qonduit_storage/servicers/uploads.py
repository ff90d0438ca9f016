"""Uploads as streams: one header, then chunks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qonduit_storage.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from qonduit_api.internal.v1 import storage_pb2 as pb


async def header_of(messages: AsyncIterator[Any]) -> Any:
    """The header that starts an upload.

    Raises:
        RequestError: there is none.
    """
    first = await anext(messages, None)
    if first is None or isinstance(first, memoryview) or first.WhichOneof("part") != "header":
        raise RequestError("An upload starts with a header: name, size and sha256 of what follows.", field="header")
    return first.header


async def chunks_of(
    messages: AsyncIterator[pb.PutBlobRequest | pb.PutFileRequest | memoryview],
) -> AsyncIterator[memoryview]:
    """The chunks after the header.

    Raises:
        RequestError: there is anything else.
    """
    async for message in messages:
        if not isinstance(message, memoryview):
            raise RequestError("After the header of an upload come only chunks.", field="chunk")
        yield message
