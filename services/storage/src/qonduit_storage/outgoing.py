"""Bytes on their way out: hashed as they go, so that damage never passes in silence."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, BinaryIO

from qonduit_storage.blocking import in_thread
from qonduit_storage.errors import DamagedError, RequestError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from qonduit_storage.disk import Disk

PIECE_BYTES = 1024 * 1024


async def stream(file: BinaryIO, digest: str, offset: int) -> AsyncIterator[bytes]:
    """Yields a file from an offset, and verifies all of it, what lies before the offset included.

    Raises:
        RequestError: the offset is not in the file.
        DamagedError: after the last byte, when they are not what the digest says.
    """
    size = os.fstat(file.fileno()).st_size
    if not 0 <= offset <= size:
        raise RequestError(f"The offset {offset:,} is outside: there are {size:,} bytes.", field="offset")
    seen = hashlib.sha256()
    position = 0
    while piece := await in_thread(_read, file, seen):
        visible = piece[max(0, offset - position) :]
        position += len(piece)
        if visible:
            yield visible
    if seen.hexdigest() != digest:
        raise DamagedError(digest)


def _read(file: BinaryIO, seen: hashlib._Hash) -> bytes:
    piece = file.read(PIECE_BYTES)
    seen.update(piece)
    return piece


def quarantine(disk: Disk, path: Path, file: BinaryIO) -> None:
    """Moves a damaged file out of the way, so that a new upload takes its place, and keeps it for a look."""
    folder = disk.root / "quarantine"
    folder.mkdir(mode=0o700, exist_ok=True)
    # Somebody may have stored the same content afresh meanwhile: that file is another one, and stays.
    if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
        path.replace(folder / f"{path.name}-{disk.new_path().name}")


async def serve(
    disk: Disk, path: Path, file: BinaryIO, *, digest: str, offset: int, damaged: Exception
) -> AsyncIterator[bytes]:
    """Streams an open stored file; a damaged one is set aside.

    Raises:
        RequestError: the offset is not in the file.
        Exception: ``damaged``, after the last byte.
    """
    try:
        async for piece in stream(file, digest, offset):
            yield piece
    except DamagedError as error:
        await in_thread(quarantine, disk, path, file)
        raise damaged from error
