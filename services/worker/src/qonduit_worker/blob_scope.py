"""What one attempt of a job made on this machine and nobody needed elsewhere yet: blobs that only this worker has."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from qonduit_worker import metrics
from qonduit_worker.blob_names import same_bytes, sha256_of
from qonduit_worker.storage import StorageError
from qonduit_worker.uploads import Upload

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from qonduit_worker.blob_names import Hash
    from qonduit_worker.blobs import BlobCache
    from qonduit_worker.storage import Storage

_MOST_AT_ONCE_BYTES: Final = 1024 * 1024
"""Up to so many bytes are taken in the event loop, which that holds up for a millisecond: a thread that has to wait
for the interpreter, and then the loop for it, takes as long again."""


@dataclass(slots=True)
class _LocalBlob:
    path: Path
    size_bytes: int
    content_hash: str
    uses: int = 1
    """How often it was stored: the same bytes may be the call of several tasks."""


class AttemptScope:
    """The local blobs of one attempt, shared by its driver and its executors on this machine.

    They are in no storage and are never evicted; with the last of those who hold the scope they are deleted. What is
    shared goes to storage and moves to the machine's cache, from where it may be evicted.

    A name stands for one content throughout. On the driver's worker it is a number that is never given again; a quick
    hash only finds what may be the same bytes, which are then compared. Elsewhere, where all is shared, it is the
    sha256.
    """

    def __init__(
        self, cache: BlobCache, folder: Path, storage: Storage, *, quick_hash: Callable[[], Hash] | None
    ) -> None:
        self._cache = cache
        self._folder = folder
        self._storage = storage
        self._quick_hash = quick_hash
        """Of a worker that has the driver; None elsewhere."""
        self._local: dict[str, _LocalBlob] = {}
        self._stored: dict[str, str] = {}
        """By name: the sha256 of what this attempt brought to storage, and of what it was told to be there."""
        self._newest: dict[str, str] = {}
        """By the hash of a content: the name that one with this hash got last."""
        self._sharing: dict[str, asyncio.Task[str]] = {}
        self._writing: set[LocalUpload] = set()
        self._begun_bytes = 0
        self._closed = False
        self.holders = 0
        folder.mkdir(mode=0o700)

    @property
    def oldest(self) -> str | None:
        """The local blob that was stored first."""
        return next(iter(self._local), None)

    def find(self, name: str) -> Path | None:
        """Return the file of a local blob, or None."""
        local = self._local.get(name)
        return None if local is None else local.path

    def stored_as(self, name: str) -> str | None:
        """Return the sha256 under which a blob is in storage, or None."""
        return self._stored.get(name)

    def know(self, name: str, digest: str) -> None:
        """Remember under which sha256 another worker has brought a blob to storage."""
        self._stored[name] = digest

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
            path, new_hash = self._folder / self._cache.new_name(), self._quick_hash or hashlib.sha256
            upload = LocalUpload(self, Upload(path, size_bytes, new_hash=new_hash), size_bytes)
        except OSError as error:
            self._cache.give_back(size_bytes)
            raise StorageError("DISK_ERROR", f"the worker cannot keep values: {error}") from error
        self._writing.add(upload)
        return upload

    async def adopt(self, file: Path, content_hash: str, size_bytes: int) -> str:
        """Keep a complete file, for which room was reserved, and return the name of its content."""
        known = await self._known(file, content_hash, size_bytes)
        if self._closed:
            raise StorageError("ATTEMPT_ENDED", "the attempt is over")
        if known is None:
            return self._keep(file, content_hash, size_bytes)
        if known in self._local:
            self._local[known].uses += 1
        self._drop(file, size_bytes)
        return known

    def _drop(self, file: Path, size_bytes: int) -> None:
        file.unlink(missing_ok=True)
        self._cache.give_back(size_bytes)

    def _keep(self, file: Path, content_hash: str, size_bytes: int) -> str:
        name = content_hash if self._quick_hash is None else file.name
        self._local[name] = _LocalBlob(file, size_bytes, content_hash)
        self._newest[content_hash] = name
        metrics.BLOB_BYTES.labels("kept").inc(size_bytes)
        return name

    async def _known(self, file: Path, content_hash: str, size_bytes: int) -> str | None:
        """Return the name of what is here and has the same content as a new file, or None."""
        while (name := self._newest.get(content_hash)) is not None:
            if self._quick_hash is None:
                return name
            other = self.find(name) or self._cache.find(self._stored[name])
            if other is None:  # It was evicted.
                return None
            if size_bytes <= _MOST_AT_ONCE_BYTES:
                same = same_bytes(file, other)
            else:
                same = await asyncio.to_thread(same_bytes, file, other)
            if self._newest.get(content_hash) == name:  # It was not deleted meanwhile.
                return name if same else None
        return None

    def release(self, name: str) -> None:
        """Take back one `adopt`: with the last one a blob that was never shared is deleted."""
        local = self._local.get(name)
        if local is None or name in self._sharing:
            return
        local.uses -= 1
        if local.uses <= 0:
            del self._local[name]
            if self._newest.get(local.content_hash) == name:
                del self._newest[local.content_hash]
            self._drop(local.path, local.size_bytes)

    async def share(self, name: str) -> str:
        """Return a blob's sha256 once it is in storage; calls for one blob share one upload.

        Raises:
            StorageError: Storage did not take it, or it is not here (BLOB_NOT_FOUND).
        """
        if (digest := self._stored.get(name)) is not None:
            return digest
        task = self._sharing.get(name)
        if task is None:
            task = asyncio.create_task(self._upload(name))
            self._sharing[name] = task
            task.add_done_callback(lambda task: self._uploaded(name, task))
        return await asyncio.shield(task)

    def _uploaded(self, name: str, task: asyncio.Task[str]) -> None:
        self._sharing.pop(name, None)
        if not task.cancelled():
            task.exception()  # Whoever waited was told; maybe nobody waits any more.

    async def _upload(self, name: str) -> str:
        local = self._local.get(name)
        if local is None:
            # What the cache alone has may be a user's file, which no job must get at by its digest.
            raise StorageError("BLOB_NOT_FOUND", f"no blob {name} of this job's attempt is on this worker")
        digest = name if self._quick_hash is None else await asyncio.to_thread(sha256_of, local.path)
        await self._storage.put_blob(digest, local.path)
        metrics.BLOB_BYTES.labels("uploaded").inc(local.size_bytes)
        # From here on it may be evicted: it can be brought again.
        self._stored[name] = digest
        del self._local[name]
        self._cache.give_back(local.size_bytes)
        self._cache.adopt(local.path, digest)
        return digest

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

    async def commit(self) -> str:
        """Keep what came, and return its name; raises RequestError and keeps nothing when it is not all."""
        try:
            content_hash = self._upload.complete()
            name = await self._scope.adopt(self._upload.path, content_hash, self.size_bytes)
        except BaseException:
            self.discard()
            raise
        self._open = False
        self._scope.committed(self)
        return name

    def discard(self) -> None:
        """Keep nothing. Safe to call twice, and after `commit`."""
        if self._open:
            self._open = False
            self._upload.discard()
            self._scope.discarded(self)
