"""Blobs on this machine: each crosses the network once, whoever asks, and only when somebody elsewhere needs it.

Two kinds of files. *Local* ones belong to one attempt (`AttemptScope`): they were made here, are nowhere else, and stay
until the attempt is over. *Cached* ones can be brought from storage again, serve all jobs, and go when room is needed
or nobody has used them for long.
A local one becomes a cached one by going to storage. This worker itself works out the digest of all that enters the
cache, so that no job can make another read something else than it asked for.

Where a local blob may be: on the driver's worker alone, where its name is a number. What an executor on another worker
stores is named by its sha256 and in storage before anybody is told, because that worker may be lost, and its lease may
end, long before the driver asks. So a name tells where its bytes are: in storage, or with the driver's worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import time
import uuid
from collections import Counter
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

import xxhash

from qonduit_worker import metrics
from qonduit_worker.blob_names import is_digest, local_name
from qonduit_worker.blob_scope import AttemptScope
from qonduit_worker.storage import StorageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence
    from pathlib import Path

    from qonduit_worker.blob_exchange import BlobExchange
    from qonduit_worker.blob_names import Hash
    from qonduit_worker.blob_scope import LocalUpload
    from qonduit_worker.storage import Storage, StoredFile


class BlobCache:
    """A folder of blobs by digest, for all jobs of this machine; the least recently used ones go first.

    It also counts what the scopes of attempts hold, so that both together stay within the capacity.
    """

    def __init__(self, folder: Path, *, capacity_bytes: int, quick_hash: Callable[[], Hash] = xxhash.xxh3_128) -> None:
        self._folder = folder
        self._quick_hash = quick_hash
        self._numbers = count(1)
        self._scopes_folder = folder / "scopes"
        self._capacity_bytes = capacity_bytes
        self._fetching: dict[tuple[str, ...], asyncio.Task[Path]] = {}
        self._pins: Counter[str] = Counter()
        self._scopes: dict[tuple[str, int], AttemptScope] = {}
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        # What an earlier life was about to write, or kept for attempts that died with it.
        for leftover in folder.glob("*.part"):
            leftover.unlink(missing_ok=True)
        shutil.rmtree(self._scopes_folder, ignore_errors=True)
        self._scopes_folder.mkdir(mode=0o700)
        self._size_bytes = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
        self._local_bytes = 0

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

        async def bring(part: Path) -> str:
            await storage.get_blob(digest, part)
            _count_fetched(part)
            return digest

        return self.find(digest) or await self._once((digest,), bring)

    async def fetch_file(self, storage: Storage, space: str, file: StoredFile) -> Path:
        """Return a file's bytes as `fetch` does: those that were told of, or what has taken their place since."""

        async def bring(part: Path) -> str:
            return (await storage.get_file(space, file.name, part)).digest

        # Who waits for a file of one space never gets what has taken its place in another.
        return self.find(file.digest) or await self._once((file.digest, space, file.name), bring)

    async def _once(self, what: tuple[str, ...], bring: Callable[[Path], Awaitable[str]]) -> Path:
        task = self._fetching.get(what)
        if task is None:
            task = asyncio.create_task(self._bring(bring))
            self._fetching[what] = task
            task.add_done_callback(lambda task: self._fetched(what, task))
        return await asyncio.shield(task)

    def _fetched(self, what: tuple[str, ...], task: asyncio.Task[Path]) -> None:
        self._fetching.pop(what, None)
        if not task.cancelled():
            task.exception()  # Whoever waited was told; maybe nobody waits any more.

    async def _bring(self, bring: Callable[[Path], Awaitable[str]]) -> Path:
        part = self.new_part()
        try:
            return self.adopt(part, await bring(part))
        finally:
            part.unlink(missing_ok=True)

    def adopt(self, part: Path, digest: str) -> Path:
        """Take over a complete file whose digest was checked."""
        found = self.find(digest)
        if found is None:
            return self._keep(part, digest)
        part.unlink(missing_ok=True)
        return found

    def _keep(self, part: Path, digest: str) -> Path:
        path = self._folder / digest
        size = part.stat().st_size
        os.utime(part)  # It may have been made long before, for one attempt.
        part.chmod(0o400)
        part.replace(path)
        self._size_bytes += size
        if self._size_bytes + self._local_bytes > self._capacity_bytes:
            with self.pinned(digest):
                self._evict(self._capacity_bytes // 2 - self._local_bytes)
        return path

    def new_part(self) -> Path:
        """Return a name for a file that may become a blob with `adopt`."""
        return self._folder / f"{uuid.uuid4().hex}.part"

    @contextlib.contextmanager
    def pinned(self, digest: str) -> Iterator[None]:
        """Keep a blob from being evicted meanwhile, whether it is here yet or not."""
        self._pins[digest] += 1
        try:
            yield
        finally:
            self._pins[digest] -= 1
            if not self._pins[digest]:
                del self._pins[digest]

    def _evict(self, most_bytes: int) -> None:
        """Let go of what was not used for longest until so many bytes are left; who has a file open keeps its bytes."""
        files = [file for file in self._folder.iterdir() if is_digest(file.name) and file.name not in self._pins]
        for file in sorted(files, key=lambda file: file.stat().st_mtime):
            if self._size_bytes <= most_bytes:
                return
            self._remove(file)

    async def remove_unused(self, unused_s: float) -> None:
        """Let go of what nobody has used for so many seconds, such as values of jobs that were deleted since."""
        for file in [file for file in self._folder.iterdir() if is_digest(file.name)]:
            with contextlib.suppress(FileNotFoundError):  # Evicted meanwhile.
                if file.name not in self._pins and file.stat().st_mtime < time.time() - unused_s:
                    self._remove(file)
            await asyncio.sleep(0)  # Removing a large file takes a while, and there may be many.

    def _remove(self, file: Path) -> None:
        self._size_bytes -= file.stat().st_size
        file.unlink()

    # --- Attempts ------------------------------------------------------------------------------

    def hold(self, job_id: str, attempt: int, storage: Storage, *, at_home: bool) -> AttemptScope:
        """Return the scope of an attempt; it lasts until all who hold it have let go.

        Args:
            job_id: The job.
            attempt: Its attempt.
            storage: Where its blobs go, and come from.
            at_home: Whether its driver is on this worker.
        """
        key = job_id, attempt
        scope = self._scopes.get(key)
        if scope is None:
            quick_hash = self._quick_hash if at_home else None
            folder = self._scopes_folder / uuid.uuid4().hex
            scope = self._scopes[key] = AttemptScope(self, folder, storage, quick_hash=quick_hash)
        scope.holders += 1
        return scope

    async def let_go(self, job_id: str, attempt: int) -> None:
        """End one hold: with the last one what only this attempt used is deleted."""
        scope = self._scopes[job_id, attempt]
        scope.holders -= 1
        if scope.holders == 0:
            del self._scopes[job_id, attempt]
            await scope.close()

    def new_name(self) -> str:
        """Return a name for a local blob, which no other one has in this life of the worker."""
        return local_name(next(self._numbers))

    def scope(self, job_id: str, attempt: int) -> AttemptScope | None:
        """Return the scope of an attempt that runs here, or None."""
        return self._scopes.get((job_id, attempt))

    def check(self, size_bytes: int, *, beside_bytes: int) -> None:
        """Refuse a value that is too large, alone or beside those that its attempt is storing; raises StorageError."""
        most_bytes = self._capacity_bytes // 2
        if size_bytes > most_bytes:
            raise StorageError(
                "BLOB_TOO_LARGE",
                f"a value of {size_bytes:,} bytes is larger than the {most_bytes:,} bytes that this worker takes "
                "(half of QONDUIT_WORKER_CACHE_BYTES): split it, or have the operator raise that",
            )
        if size_bytes + beside_bytes > most_bytes:
            raise StorageError(
                "CACHE_FULL",
                f"a value of {size_bytes:,} bytes beside {beside_bytes:,} bytes that the job is storing right now is "
                f"more than the {most_bytes:,} bytes that this worker takes at a time: try again",
            )

    async def reserve(self, size_bytes: int) -> None:
        """Make room for a local blob, and count it as there.

        What can be brought again is evicted first. When local blobs fill the room, the oldest ones go to storage, so
        that a job may make more than this machine holds.

        Raises:
            StorageError: It does not fit now (CACHE_FULL, DISK_FULL, storage's reasons).
        """
        capacity = self._capacity_bytes
        while self._size_bytes + self._local_bytes + size_bytes > capacity:
            self._evict(max(0, min(capacity // 2, capacity - self._local_bytes - size_bytes)))
            if self._size_bytes + self._local_bytes + size_bytes <= capacity:
                break
            await self._spill(size_bytes)
        free = shutil.disk_usage(self._folder).free
        if size_bytes > free:
            raise StorageError(
                "DISK_FULL", f"a value of {size_bytes:,} bytes does not fit on the worker's disk: {free:,} are free"
            )
        self._local_bytes += size_bytes

    async def _spill(self, size_bytes: int) -> None:
        for scope in self._scopes.values():
            if (name := scope.oldest) is not None:
                await scope.share(name)
                return
        raise StorageError(
            "CACHE_FULL",
            f"there is no room now for a value of {size_bytes:,} bytes: {self._local_bytes:,} of "
            f"{self._capacity_bytes:,} bytes (QONDUIT_WORKER_CACHE_BYTES) are being written; try again",
        )

    def give_back(self, size_bytes: int) -> None:
        """Count a local blob as gone."""
        self._local_bytes -= size_bytes


def _count_fetched(part: Path) -> None:
    metrics.BLOB_BYTES.labels("fetched").inc(part.stat().st_size)


class JobBlobs:
    """The blobs that one driver or executor may read and write, through its job's ticket."""

    def __init__(
        self, cache: BlobCache, storage: Storage, exchange: BlobExchange, *, job_id: str, attempt: int, home: str
    ) -> None:
        self._cache = cache
        self._storage = storage
        self._exchange = exchange
        self._job_id = job_id
        self._attempt = attempt
        self._home = home
        self._scope = cache.hold(job_id, attempt, storage, at_home=self.at_home)
        self._closed = False

    @property
    def at_home(self) -> bool:
        """Whether the driver is on this worker: then what is stored need not go to storage."""
        return self._home == self._exchange.worker_id

    # --- Durable ones --------------------------------------------------------------------------

    async def put(self, data: bytes) -> str:
        """Store bytes durably and return their digest."""
        digest = hashlib.sha256(data).hexdigest()
        await self._storage.put_blob(digest, data)
        return digest

    def new_part(self) -> Path:
        """Return a name for a file that `put_file` can take over."""
        return self._cache.new_part()

    async def put_file(self, digest: str, part: Path) -> None:
        """Store a file of this digest durably and keep it here; the file is moved away."""
        await self._storage.put_blob(digest, part)
        self._cache.adopt(part, digest)

    # --- Those that go to storage only when somebody there wants them ----------------------------

    async def begin(self, size_bytes: int) -> LocalUpload:
        """Begin to store so many bytes for this attempt; raises StorageError when there is no room."""
        return await self._scope.begin(size_bytes)

    async def commit(self, upload: LocalUpload) -> str:
        """Keep an upload; return its name once whoever is told it can get the bytes."""
        name = await upload.commit()
        if not self.at_home:
            await self.share(name)
        return name

    async def put_local(self, *parts: bytes | memoryview) -> str:
        """Store the parts one after another for this attempt and return the name; raises StorageError."""
        size = sum(memoryview(part).nbytes for part in parts)
        upload = await self.begin(size)
        try:
            await upload.fill(size, partial(_hand_over, parts))
            return await self.commit(upload)
        finally:
            upload.discard()

    async def share(self, name: str) -> str:
        """Return a blob's sha256 once it is in storage; raises StorageError. Calls for one share one upload."""
        return await self._scope.share(name)

    def release(self, name: str) -> None:
        """Say that one `put_local` that gave this name is of no use any more; with the last one it is deleted here."""
        self._scope.release(name)

    # --- Reading -------------------------------------------------------------------------------

    async def open(self, name: str) -> int:
        """Return a read-only descriptor, which is the caller's.

        Nobody can change these bytes: the file is the worker's own, and whoever made them never had it.

        Raises:
            StorageError: BLOB_NOT_FOUND, BLOB_LOST when the driver's worker is gone, or storage's own reasons.
        """
        if (local := self._scope.find(name)) is not None:
            return os.open(local, os.O_RDONLY | os.O_CLOEXEC)
        digest = name if is_digest(name) else await self._stored_as(name)
        with self._cache.pinned(digest):
            return os.open(await self._cache.fetch(self._storage, digest), os.O_RDONLY | os.O_CLOEXEC)

    async def _stored_as(self, name: str) -> str:
        """Return the sha256 of a blob that was local; the driver's worker brings it to storage, if it is not there."""
        digest = self._scope.stored_as(name)
        if digest is None:
            if self.at_home:
                raise StorageError("BLOB_NOT_FOUND", f"no blob {name} of this job's attempt is on this worker")
            digest = await self._exchange.ask(self._home, self._job_id, self._attempt, name)
            self._scope.know(name, digest)
        return digest

    async def get(self, name: str) -> bytes:
        """Return the bytes of a blob; raises as `open`."""
        with os.fdopen(await self.open(name), "rb") as file:
            return await asyncio.to_thread(file.read)

    async def close(self) -> None:
        """Let go of the attempt's scope. Safe to call twice."""
        if not self._closed:
            self._closed = True
            await self._cache.let_go(self._job_id, self._attempt)


def _hand_over(parts: Sequence[bytes | memoryview], add: Callable[[bytes | memoryview], None]) -> None:
    for part in parts:
        add(memoryview(part).cast("B") if len(part) else b"")
