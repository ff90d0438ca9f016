"""What a program posts, received piece by piece: small bodies in memory, larger ones in files, too large ones never."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final

from qonduit_service_kit.messages import INLINE_LIMIT_BYTES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from aiohttp import web

MAX_JOB_BYTES: Final = 64 * 1024**2
"""The runtime API takes as much."""
MAX_OTHER_BYTES: Final = 32 * 1024
"""Tags, sessions, keys: whatever is no job."""
_PIECE_BYTES: Final = 1024**2


class TooLargeError(Exception):
    """A body is larger than it may be."""

    def __init__(self, most_bytes: int) -> None:
        super().__init__(f"A body has at most {most_bytes:,} bytes here.")


class EncodedBodyError(Exception):
    """A compressed body: of what it becomes, its length tells nothing."""


@dataclass(frozen=True, slots=True)
class Body:
    """A body that was received whole.

    Attributes:
        digest: Its sha256 in hexadecimal.
        data: Its bytes, where a message can carry them.
        part: The file that holds them, where none can.
    """

    digest: str
    data: bytes | None = None
    part: Path | None = None


@asynccontextmanager
async def received(request: web.Request, new_part: Callable[[], Path], most_bytes: int) -> AsyncIterator[Body]:
    """Receive a request's body; its file, unless somebody has taken it, is gone afterwards.

    A body of a known length is refused before it is read, one of an unknown length as soon as it is too long.

    Raises:
        TooLargeError: It is larger than `most_bytes`.
        EncodedBodyError: It is compressed.
    """
    if (request.content_length or 0) > most_bytes:
        raise TooLargeError(most_bytes)
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise EncodedBodyError
    head = await _head(request, min(most_bytes, INLINE_LIMIT_BYTES))
    if len(head) <= INLINE_LIMIT_BYTES:
        if len(head) > most_bytes:
            raise TooLargeError(most_bytes)
        yield Body(hashlib.sha256(head).hexdigest(), data=bytes(head))
        return
    part = new_part()
    try:
        with part.open("xb") as file:
            digest = await _spill(request, file, head, most_bytes)
        yield Body(digest, part=part)
    finally:
        part.unlink(missing_ok=True)


async def _head(request: web.Request, enough: int) -> bytearray:
    """Return the body's beginning: all of it, or just more than enough."""
    head = bytearray()
    while len(head) <= enough and (piece := await request.content.readany()):
        head += piece
    return head


async def _spill(request: web.Request, file: BinaryIO, waiting: bytearray, most_bytes: int) -> str:
    """Write what has come and all that follows into a file, and return the digest of the whole."""
    sha256 = hashlib.sha256()
    size = 0
    while waiting:
        size += len(waiting)
        if size > most_bytes:
            raise TooLargeError(most_bytes)
        await asyncio.to_thread(_write, file, sha256, bytes(waiting))
        waiting = await _head(request, _PIECE_BYTES)
    return sha256.hexdigest()


def _write(file: BinaryIO, sha256: hashlib._Hash, data: bytes) -> None:
    file.write(data)
    sha256.update(data)
