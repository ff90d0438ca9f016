"""Bytes on their way in: written aside, hashed and checked as they come, and kept only when they are good."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Protocol

from qonduit_storage.block_file import BlockFile
from qonduit_storage.blocking import Lane, in_thread
from qonduit_storage.disk import make_folder, rename, room_errors
from qonduit_storage.errors import CutOffError, DigestError, RequestError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from concurrent.futures import Executor
    from pathlib import Path

    from qonduit_storage.disk import Disk, Reservation
    from qonduit_storage.rules.content import ContentCheck

_BATCH_BYTES = 1024 * 1024
_LEAST_PIECE_BYTES = 512 * 1024
_PIECES = 4
"""Of each upload: what waits in memory while the disk is slow for a moment."""


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

    def __init__(
        self,
        path: Path,
        offer: Offer,
        check: ContentCheck | None,
        reservation: Reservation,
        *,
        writers: Executor,
        offset: int = 0,
    ) -> None:
        self.path = path
        self.reservation = reservation
        self._offer = offer
        self._check = check
        self._hash = hashlib.sha256()
        self._size_bytes = 0
        with room_errors():
            self._file = BlockFile(path, writers=writers, offset=offset)
        self.left_to_replay = offset

    def replay(self) -> bool:
        """Takes the next of what is here already, as if it came now; False once all was taken.

        Raises:
            FileContentError: it breaks the rules of content.
        """
        batch = self._file.read(min(_BATCH_BYTES, self.left_to_replay))
        self.left_to_replay -= len(batch)
        self._take(batch)
        return bool(batch)

    def write(self, piece: bytes | memoryview) -> None:
        """Takes the next bytes.

        Raises:
            RequestError: they are more than announced, or break the rules of content.
            DiskFullError: there is no room.
        """
        if self._size_bytes + len(piece) > self._offer.size_bytes:
            raise RequestError(
                f"More bytes came than the {self._offer.size_bytes:,} that were announced. Did the file change "
                "while it was sent? Send it again.",
                field="size_bytes",
            )
        self._take(piece)
        with room_errors():
            self._file.write(piece)

    def _take(self, piece: bytes | memoryview) -> None:
        self._size_bytes += len(piece)
        self._hash.update(piece)
        if self._check is not None:
            self._check.feed(piece)

    def finish(self, rest: bytes) -> None:
        """Takes the last bytes, checks the whole and makes it durable.

        Raises:
            DigestError: size or digest are not as announced.
            FileContentError: the rules of content are broken.
            RequestError: as for `write`.
            DiskFullError: there is no room.
        """
        if rest:
            self.write(rest)
        found = self._hash.hexdigest()
        if self._size_bytes != self._offer.size_bytes or found != self._offer.digest:
            kind = CutOffError if self._size_bytes < self._offer.size_bytes else DigestError
            raise kind(
                f"{self._size_bytes:,} bytes with sha256 {found} came, and {self._offer.size_bytes:,} bytes with "
                f"sha256 {self._offer.digest} were announced. Nothing was kept; send them again.",
                field="digest",
            )
        if self._check is not None:
            self._check.finish()
        with room_errors():
            self._file.sync()

    def break_off(self) -> None:
        """Has the file hold all that came, so that the upload can go on from there."""
        with room_errors():
            self._file.flush()

    def move_to(self, target: Path) -> None:
        """Gives the bytes their final name, replacing what stands there: it should be equal, and may be damaged."""
        with room_errors():
            make_folder(target.parent)
            rename(self.path, target)

    def rest(self) -> None:
        """Waits until nothing is being written."""
        self._file.rest()

    def close(self) -> None:
        """Lets go of the file; at once, where nothing is being written."""
        with suppress(OSError):
            self._file.close()


@contextmanager
def incoming(
    disk: Disk, offer: Offer, check: ContentCheck | None = None, *, path: Path | None = None, offset: int = 0
) -> Iterator[Incoming]:
    """An upload that leaves nothing behind unless it was moved elsewhere, however the block ends.

    With an offset, the file at `path` has as many of its bytes already.

    Raises:
        DiskFullError: there is no room for it.
    """
    path = path or disk.new_path()
    try:
        with disk.reserve(offer.size_bytes - offset) as reservation:
            upload = Incoming(path, offer, check, reservation, writers=disk.writers, offset=offset)
            try:
                yield upload
            finally:
                upload.close()
    finally:
        with suppress(OSError):  # A disk that failed is told already; the next start removes it.
            path.unlink(missing_ok=True)


async def receive(upload: Incoming, chunks: AsyncIterator[bytes | memoryview]) -> None:
    """Takes what is here already and all chunks, small ones together so that they cost little, and finishes the upload.

    Raises:
        StorageError: as Incoming.write and Incoming.finish do.
    """
    while upload.left_to_replay and await in_thread(upload.replay):
        pass
    small: list[bytes | memoryview] = []
    size = 0
    try:
        async with Lane(upload.write, _PIECES) as writing:
            async for chunk in chunks:
                small.append(chunk)
                size += len(chunk)
                if size < _LEAST_PIECE_BYTES:
                    continue
                await writing.put(chunk if len(small) == 1 else b"".join(small))
                upload.reservation.use(size)
                small, size = [], 0
        await in_thread(upload.finish, b"".join(small))
    except BaseException:
        await in_thread(upload.rest)  # Who closes the file next must not wait for the disk, nor others with them.
        raise
