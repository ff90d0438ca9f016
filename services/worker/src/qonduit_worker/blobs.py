"""Blobs on this machine: each crosses the network once, whoever asks."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import uuid
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

    from qonduit_worker.storage import Storage

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


def is_digest(text: str) -> bool:
    """Tell whether a text could be a sha256 in hexadecimal."""
    return _DIGEST.fullmatch(text) is not None


class BlobCache:
    """A folder of blobs by digest, for all jobs of this machine; the least recently used ones go first."""

    def __init__(self, folder: Path, *, capacity_bytes: int) -> None:
        self._folder = folder
        self._capacity_bytes = capacity_bytes
        self._fetching: dict[str, asyncio.Task[Path]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        for leftover in folder.glob("*.part"):
            leftover.unlink(missing_ok=True)
        self._size_bytes = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())

    def find(self, digest: str) -> Path | None:
        """Return the file of a blob that is here, or None."""
        path = self._folder / digest
        if not path.exists():
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return path

    async def fetch(self, storage: Storage, digest: str) -> Path:
        """Return the file of a blob, from storage if it is not here; raises StorageError.

        Several calls for one blob share one transfer.
        """
        if (found := self.find(digest)) is not None:
            return found
        task = self._fetching.get(digest)
        if task is None:
            task = asyncio.create_task(self._fetch(storage, digest))
            self._fetching[digest] = task
            task.add_done_callback(lambda _: self._fetching.pop(digest, None))
        return await asyncio.shield(task)

    async def _fetch(self, storage: Storage, digest: str) -> Path:
        part = self._folder / f"{uuid.uuid4().hex}.part"
        try:
            await storage.get_blob(digest, part)
            return self._keep(part, digest)
        finally:
            part.unlink(missing_ok=True)

    def adopt(self, part: Path, digest: str) -> Path:
        """Take over a complete file whose digest was checked."""
        return self.find(digest) or self._keep(part, digest)

    def _keep(self, part: Path, digest: str) -> Path:
        path = self._folder / digest
        size = part.stat().st_size
        part.chmod(0o400)
        part.replace(path)
        self._size_bytes += size
        if self._size_bytes > self._capacity_bytes:
            self._evict(keep=path)
        return path

    def _evict(self, keep: Path) -> None:
        files = [file for file in self._folder.iterdir() if file != keep and file.suffix != ".part"]
        for file in sorted(files, key=lambda file: file.stat().st_mtime):
            if self._size_bytes <= self._capacity_bytes // 2:
                return
            self._size_bytes -= file.stat().st_size
            file.unlink(missing_ok=True)

    def new_part(self) -> Path:
        """Return a name for a file that may become a blob with `adopt`."""
        return self._folder / f"{uuid.uuid4().hex}.part"


class JobBlobs:
    """The blobs that one job may read and write, through its ticket."""

    def __init__(self, cache: BlobCache, storage: Storage) -> None:
        self._cache = cache
        self._storage = storage

    async def put(self, data: bytes) -> str:
        """Store bytes durably and return their digest."""
        digest = hashlib.sha256(data).hexdigest()
        await self._storage.put_blob(digest, data)
        return digest

    async def put_file(self, digest: str, part: Path) -> None:
        """Store a file of this digest durably and keep it here; the file is moved away."""
        await self._storage.put_blob(digest, part)
        self._cache.adopt(part, digest)

    async def get(self, digest: str) -> bytes:
        """Return the bytes of a blob; raises StorageError."""
        return (await self.path(digest)).read_bytes()

    async def path(self, digest: str) -> Path:
        """Return the file of a blob, only to be read."""
        return await self._cache.fetch(self._storage, digest)

    def known(self, digest: str) -> bool:
        """Tell whether a blob is on this machine, and so in storage."""
        return self._cache.find(digest) is not None
