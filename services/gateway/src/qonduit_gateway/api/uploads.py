"""Reading uploads: a header first, then chunks of at most 1 MiB."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
from qonduit_service_kit.chunks import Chunk
from qonduit_service_kit.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CHUNK_LIMIT_BYTES = 1024 * 1024
IDLE_LIMIT_S = 60.0
"""Storage gives up an upload that is silent for as long."""


async def header_of(requests: AsyncIterator[Any]) -> Any:
    """Return the header that an upload begins with; ApiError when it begins with anything else."""
    async for request in _in_time(requests):
        if not isinstance(request, Chunk) and request.WhichOneof("part") == "header":
            return request.header
        break
    raise ApiError(grpc.StatusCode.INVALID_ARGUMENT, "HEADER_MISSING", "The first message of an upload is its header.")


async def chunks_of(requests: AsyncIterator[Any], size_bytes: int) -> AsyncIterator[Chunk]:
    """Return the chunks after the header; ApiError when their sizes are not as announced."""
    seen = 0
    async for request in _in_time(requests):
        if not isinstance(request, Chunk):
            text = "After the header of an upload come only chunks."
            raise ApiError(grpc.StatusCode.INVALID_ARGUMENT, "CHUNK_EXPECTED", text)
        if len(request) > CHUNK_LIMIT_BYTES:
            text = f"A chunk has {len(request)} bytes; send at most {CHUNK_LIMIT_BYTES} at once."
            raise ApiError(grpc.StatusCode.INVALID_ARGUMENT, "CHUNK_TOO_LARGE", text)
        seen += len(request)
        if seen > size_bytes:
            break
        yield request
    if seen != size_bytes:
        many = "more than that" if seen > size_bytes else f"{seen}"
        text = f"The header announced {size_bytes} bytes, {many} came. Send the upload again."
        raise ApiError(grpc.StatusCode.INVALID_ARGUMENT, "SIZE_MISMATCH", text)


async def _in_time(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """Return what comes; ApiError when nothing does: an upload that its sender has left must not stay for ever."""
    while True:
        try:
            async with asyncio.timeout(IDLE_LIMIT_S):
                request = await anext(requests)
        except StopAsyncIteration:
            return
        except TimeoutError:
            text = f"Nothing came for {IDLE_LIMIT_S:g} s. Send the upload again."
            raise ApiError(grpc.StatusCode.DEADLINE_EXCEEDED, "UPLOAD_IDLE", text) from None
        yield request
