"""Bytes on their way in: written aside, hashed and checked as they come, and kept only when they are good."""

from __future__ import annotations

import hashlib
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Protocol

from qonduit_storage.blocking import in_thread
from qonduit_storage.disk import make_folder, rename, room_errors
from qonduit_storage.errors import DigestError, RequestError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from qonduit_storage.disk import Disk, Reservation
    from qonduit_storage.rules.content import ContentCheck

_BATCH_BYTES = 1024 * 1024


class Offer(Protocol):
    """What a caller says about the bytes to come."""

    @property
    def digest(self) -> str:
        """sha256 in hexadecimal."""

    @property
    def size_bytes(self) -> int:
        """Their number."""


class Incoming:
    """One upload in a file of its own; its methods block."""

    def __init__(self, path: Path, offer: Offer, check: ContentCheck | None, reservation: Reservation) -> None:
        self.reservation = reservation
        self._path = path
        self._offer = offer
        self._check = check
        self._hash = hashlib.sha256()
        self._size_bytes = 0
        with room_errors():
            self._file = path.open("xb", buffering=0)

    def write(self, batch: bytes) -> None:
        """Takes the next bytes.

        Raises:
            RequestError: they are more than announced, or break the rules of content.
            DiskFullError: there is no room.
        """
        self._size_bytes += len(batch)
        if self._size_bytes > self._offer.size_bytes:
            raise RequestError(
                f"More bytes came than the {self._offer.size_bytes:,} that were announced. Did the file change "
                "while it was sent? Send it again.",
                field="size_bytes",
            )
        self._hash.update(batch)
        if self._check is not None:
            self._check.feed(batch)
        left = memoryview(batch)
        with room_errors():
            while left:
                left = left[self._file.write(left) :]

    def finish(self) -> None:
        """Checks the whole and makes it durable.

        Raises:
            DigestError: size or digest are not as announced.
            FileContentError: the rules of content are broken.
        """
        found = self._hash.hexdigest()
        if self._size_bytes != self._offer.size_bytes or found != self._offer.digest:
            raise DigestError(
                f"{self._size_bytes:,} bytes with sha256 {found} came, and {self._offer.size_bytes:,} bytes with "
                f"sha256 {self._offer.digest} were announced. Nothing was kept; send them again.",
                field="digest",
            )
        if self._check is not None:
            self._check.finish()
        with room_errors():
            os.fsync(self._file.fileno())

    def move_to(self, target: Path) -> None:
        """Gives the bytes their final name, replacing what stands there: it should be equal, and may be damaged."""
        with room_errors():
            make_folder(target.parent)
            rename(self._path, target)

    def close(self) -> None:
        """Lets go; what has no final name yet is removed."""
        with suppress(OSError):
            self._file.close()
        self._path.unlink(missing_ok=True)


@contextmanager
def incoming(disk: Disk, offer: Offer, check: ContentCheck | None = None) -> Iterator[Incoming]:
    """An upload that leaves nothing behind unless it was moved to its final name, however the block ends.

    Raises:
        DiskFullError: there is no room for it.
    """
    with disk.reserve(offer.size_bytes) as reservation:
        upload = Incoming(disk.new_path(), offer, check, reservation)
        try:
            yield upload
        finally:
            upload.close()


async def receive(upload: Incoming, chunks: AsyncIterator[bytes]) -> None:
    """Takes all chunks, in batches so that small ones cost little, and finishes the upload.

    Raises:
        StorageError: as Incoming.write and Incoming.finish do.
    """
    batch: list[bytes] = []
    waiting = 0
    async for chunk in chunks:
        batch.append(chunk)
        waiting += len(chunk)
        if waiting >= _BATCH_BYTES:
            await in_thread(upload.write, b"".join(batch))
            upload.reservation.use(waiting)
            batch, waiting = [], 0
    if batch:
        await in_thread(upload.write, b"".join(batch))
    await in_thread(upload.finish)
