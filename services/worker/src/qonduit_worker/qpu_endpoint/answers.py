"""Answers of the broker as they came, byte for byte."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Final

from aiohttp import web

if TYPE_CHECKING:
    from qonduit_worker.qpu_endpoint.broker_calls import Blobs, Received

_PIECE_BYTES: Final = 1024**2


def in_memory(received: Received) -> web.Response:
    """Return an answer whose bytes are at hand."""
    return web.Response(status=received.status, body=received.body, headers={"Content-Type": received.content_type})


async def streamed(request: web.Request, received: Received, blobs: Blobs) -> web.StreamResponse:
    """Return an answer; one that is in storage goes out piece by piece: a program may read many at a time."""
    if not received.digest:
        return in_memory(received)
    with os.fdopen(await blobs.open(received.digest), "rb") as file:
        response = web.StreamResponse(status=received.status, headers={"Content-Type": received.content_type})
        response.content_length = os.fstat(file.fileno()).st_size
        await response.prepare(request)
        while piece := await asyncio.to_thread(file.read, _PIECE_BYTES):
            await response.write(piece)
        await response.write_eof()
    return response
