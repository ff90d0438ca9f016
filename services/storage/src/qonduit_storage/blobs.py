"""Blobs: bytes under the name of their sha256, in a folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qonduit_storage.blocking import in_thread
from qonduit_storage.disk import make_folder, sync_folder
from qonduit_storage.errors import DamagedError, MissingError, TooLargeError
from qonduit_storage.incoming import incoming, receive
from qonduit_storage.outgoing import serve
from qonduit_storage.rules.names import check_digest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from qonduit_storage.disk import Disk


@dataclass(frozen=True, slots=True)
class Blob:
    """What names a blob and tells its size."""

    digest: str
    size_bytes: int


class BlobStore:
    """Keeps blobs in 256 folders, so that none grows large.

    Two uploads of one digest run beside each other, each in a file of its own; both end with the same content under
    the same name. An upload replaces what stands there, which heals a blob that was damaged on disk.
    """

    def __init__(self, disk: Disk, *, max_bytes: int) -> None:
        self._disk = disk
        self._max_bytes = max_bytes

    def prepare(self) -> None:
        """Makes the folders, so that no upload has to wait for a new one to become durable; blocks."""
        folder = self._disk.root / "blobs"
        make_folder(folder)
        for number in range(256):
            (folder / f"{number:02x}").mkdir(mode=0o700, exist_ok=True)
        sync_folder(folder)

    async def find(self, digest: str) -> Blob | None:
        """A blob, if it is there.

        Raises:
            RequestError: this is no digest.
        """
        path = self._path(digest)
        try:
            status = await in_thread(path.stat)
        except FileNotFoundError:
            return None
        return Blob(digest, status.st_size)

    async def put(self, blob: Blob, chunks: AsyncIterator[bytes]) -> bool:
        """Stores a blob; False, without reading the chunks, if it is there.

        Raises:
            RequestError: the header is wrong, or the bytes are others than announced.
            DiskFullError: there is no room.
        """
        if await self.find(blob.digest) == blob:
            return False
        if not 0 <= blob.size_bytes <= self._max_bytes:
            raise TooLargeError(
                f"{blob.size_bytes:,} bytes are announced; this service takes up to {self._max_bytes:,} in one blob.",
                field="size_bytes",
            )
        with incoming(self._disk, blob) as upload:
            await receive(upload, chunks)
            # The rename is the commit: a crash before it leaves a file in incoming/, which the next start removes.
            await in_thread(upload.move_to, self._path(blob.digest))
        return True

    async def read(self, digest: str, offset: int) -> AsyncIterator[bytes]:
        """Streams a blob from an offset, verified.

        Raises:
            MissingError: it is not there.
            DamagedError: it is damaged; it is set aside, and a new upload will be accepted.
            RequestError: this is no digest, or the offset lies outside.
        """
        path = self._path(digest)
        try:
            file = path.open("rb", buffering=0)
        except FileNotFoundError as error:
            raise MissingError(f"There is no blob {digest}. Store it again.") from error
        with file:
            damaged = DamagedError(f"The blob {digest} was damaged on disk and is set aside. Store it again.")
            async for piece in serve(self._disk, path, file, digest=digest, offset=offset, damaged=damaged):
                yield piece

    def _path(self, digest: str) -> Path:
        check_digest(digest)
        return self._disk.root / "blobs" / digest[:2] / digest
