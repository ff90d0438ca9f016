"""Bytes on their way out: hashed as they go, so that damage never passes in silence."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from qonduit_storage.blocking import Lane

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from qonduit_storage.objects import OpenObject

_PIECES = 2
_SMALL_BYTES = 64 * 1024
"""Hashed quicker than a thread is woken for it."""


async def serve(opened: OpenObject, *, digest: str, offset: int, damaged: Exception) -> AsyncIterator[bytes]:
    """Streams an object from an offset, and verifies it, what lies before the offset included where it is read.

    Raises:
        Exception: ``damaged``, after the last byte, when they are not what the digest says; the object is set aside.
    """
    seen = hashlib.sha256()
    small = opened.size_bytes <= _SMALL_BYTES
    position = opened.starts_at
    async with Lane(seen.update, _PIECES) as hashing:
        async for piece in opened.pieces():
            if not opened.starts_at and small:
                seen.update(piece)
            elif not opened.starts_at:
                await hashing.put(piece)
            visible = piece[max(0, offset - position) :]
            position += len(piece)
            if visible:
                yield visible
    if position != opened.size_bytes or (not opened.starts_at and seen.hexdigest() != digest):
        await opened.set_aside()
        raise damaged
