"""What one attempt of a job made on this machine and nobody needed elsewhere yet: blobs that only this worker has."""

from __future__ import annotations

import asyncio
import shutil
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from qonduit_worker import metrics
from qonduit_worker.storage import StorageError
from qonduit_worker.uploads import Upload

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from qonduit_worker.blobs import BlobCache
    from qonduit_worker.storage import Storage

_MOST_AT_ONCE_BYTES: Final = 1024 * 1024
"""Up to so many bytes are taken in the event loop, which that holds up for a millisecond: a thread that has to wait
for the interpreter, and then the loop for it, takes as long again."""


@dataclass(slots=True)
class _LocalBlob:
    path: Path
    size_bytes: int
    uses: int = 1
    """How often it was stored: the same bytes may be the call of several tasks."""


class AttemptScope:
    """The local blobs of one attempt, shared by its driver and its executors on this machine.

    They are in no storage and are never evicted; with the last of those who hold the scope they are deleted. What is
    shared goes to storage and moves to the machine's cache, from where it may be evicted.
    """

    def __init__(self, cache: BlobCache, folder: Path, storage: Storage) -> None:
        self._cache = cache
        self._folder = folder
        self._storage = storage
        self._local: dict[str, _LocalBlob] = {}
        self._shared: set[str] = set()
        """Digests that this attempt brought to storage."""
        self._sharing: dict[str, asyncio.Task[None]] = {}
        self._writing: set[LocalUpload] = set()
        self._begun_bytes = 0
        self._closed = False
        self.holders = 0
        folder.mkdir(mode=0o700)

    @property
    def oldest(self) -> str | None:
        """The local blob that was stored first."""
        return next(iter(self._local), None)

    def find(self, digest: str) -> Path | None:
        """Return the file of a local blob, or None."""
        local = self._local.get(digest)
        return None if local is None else local.path

    async def begin(self, size_bytes: int) -> LocalUpload:
        """Begin to store so many bytes; raises StorageError when there is no room for them.

        What is begun cannot make room by going to storage: no attempt may hold more than half of the machine's with it.
        """
        self._cache.check(size_bytes, beside_bytes=self._begun_bytes)
        self._begun_bytes += size_bytes
        try:
            return await self._begin(size_bytes)
        except BaseException:
            self._begun_bytes -= size_bytes
            raise

    async def _begin(self, size_bytes: int) -> LocalUpload:
        await self._cache.reserve(size_bytes)
        if self._closed:
            self._cache.give_back(size_bytes)
            raise StorageError("ATTEMPT_ENDED", "the attempt is over")
        try:
            upload = LocalUpload(self, Upload(self._folder / f"{uuid.uuid4().hex}.part", size_bytes), size_bytes)
        except OSError as error:
            self._cache.give_back(size_bytes)
            raise StorageError("DISK_ERROR", f"the worker cannot keep values: {error}") from error
        self._writing.add(upload)
        return upload

    def adopt(self, part: Path, digest: str, size_bytes: int) -> None:
        """Keep a complete file, for which room was reserved, under its digest, which was worked out here."""
        if self._closed:
            raise StorageError("ATTEMPT_ENDED", "the attempt is over")
        if digest in self._shared or digest in self._local:
            if digest in self._local:
                self._local[digest].uses += 1
            part.unlink()
            self._cache.give_back(size_bytes)
            return
        path = self._folder / digest
        part.chmod(0o400)
        part.replace(path)
        self._local[digest] = _LocalBlob(path, size_bytes)
        metrics.BLOB_BYTES.labels("kept").inc(size_bytes)

    def release(self, digest: str) -> None:
        """Take back one `adopt`: with the last one a blob that was never shared is deleted."""
        local = self._local.get(digest)
        if local is None or digest in self._sharing:
            return
        local.uses -= 1
        if local.uses <= 0:
            del self._local[digest]
            local.path.unlink(missing_ok=True)
            self._cache.give_back(local.size_bytes)

    async def share(self, digest: str) -> None:
        """Return once a blob that this attempt stored here is in storage; calls for one blob share one upload.

        Raises:
            StorageError: Storage did not take it, or it is not here (BLOB_NOT_FOUND).
        """
        if digest in self._shared:
            return
        task = self._sharing.get(digest)
        if task is None:
            task = asyncio.create_task(self._upload(digest))
            self._sharing[digest] = task
            task.add_done_callback(lambda task: self._uploaded(digest, task))
        await asyncio.shield(task)

    def _uploaded(self, digest: str, task: asyncio.Task[None]) -> None:
        self._sharing.pop(digest, None)
        if not task.cancelled():
            task.exception()  # Whoever waited was told; maybe nobody waits any more.

    async def _upload(self, digest: str) -> None:
        local = self._local.get(digest)
        if local is None:
            # What the cache alone has may be a user's file, which no job must get at by its digest.
            raise StorageError("BLOB_NOT_FOUND", f"no blob {digest} of this job's attempt is on this worker")
        await self._storage.put_blob(digest, local.path)
        metrics.BLOB_BYTES.labels("uploaded").inc(local.size_bytes)
        # From here on it may be evicted: it can be brought again.
        self._shared.add(digest)
        del self._local[digest]
        self._cache.give_back(local.size_bytes)
        self._cache.adopt(local.path, digest)

    def committed(self, upload: LocalUpload) -> None:
        """Count an upload as over."""
        self._writing.discard(upload)
        self._begun_bytes -= upload.size_bytes

    def discarded(self, upload: LocalUpload) -> None:
        """Count an upload as over, and its room as free."""
        self.committed(upload)
        self._cache.give_back(upload.size_bytes)

    async def close(self) -> None:
        """Delete what only this attempt used. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        uploads = list(self._sharing.values())
        for task in uploads:
            task.cancel()
        await asyncio.gather(*uploads, return_exceptions=True)
        for upload in list(self._writing):
            upload.discard()
        for local in self._local.values():
            self._cache.give_back(local.size_bytes)
        self._local.clear()
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)


class LocalUpload:
    """Bytes on their way into a scope; it ends with `commit` or `discard`."""

    def __init__(self, scope: AttemptScope, upload: Upload, size_bytes: int) -> None:
        self._scope = scope
        self._upload = upload
        self._open = True
        self.size_bytes = size_bytes

    async def fill(self, size_bytes: int, copy: Callable[[Callable[[bytes | memoryview], None]], None]) -> None:
        """Have `copy` hand over so many bytes, in pieces, in a thread where they are many; raises RequestError."""
        if size_bytes <= _MOST_AT_ONCE_BYTES:
            copy(self._upload.add)
            return
        copying = asyncio.ensure_future(asyncio.to_thread(copy, self._upload.add))
        try:
            await asyncio.shield(copying)
        except asyncio.CancelledError:
            await asyncio.wait({copying})  # The thread goes on: the file must not be closed under it.
            raise

    def commit(self) -> str:
        """Keep what came, and return its digest; raises RequestError and keeps nothing when it is not all."""
        try:
            digest = self._upload.complete()
            self._scope.adopt(self._upload.path, digest, self.size_bytes)
        except BaseException:
            self.discard()
            raise
        self._open = False
        self._scope.committed(self)
        return digest

    def discard(self) -> None:
        """Keep nothing. Safe to call twice, and after `commit`."""
        if self._open:
            self._open = False
            self._upload.discard()
            self._scope.discarded(self)
