"""Storage in memory and a bus between two workers' exchanges, for tests of blobs."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import xxhash
from qonduit_service_kit.bus import UnroutableError
from qonduit_service_kit.messages import BlobReady, BlobWanted, worker
from qonduit_worker.blob_exchange import BlobExchange
from qonduit_worker.blobs import BlobCache, JobBlobs
from qonduit_worker.storage import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from qonduit_service_kit.messages import Address
    from qonduit_worker.blob_names import Hash

HOME = "home"


class MemoryStorage:
    """The storage service's blobs; counts transfers, and holds up those to it while `open` is not set."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.puts: list[str] = []
        self.gets: list[str] = []
        self.open = asyncio.Event()
        self.open.set()
        self.reached = asyncio.Event()

    async def put_blob(self, digest: str, source: bytes | Path) -> None:
        self.puts.append(digest)
        self.reached.set()
        await self.open.wait()
        data = source if isinstance(source, bytes) else await asyncio.to_thread(source.read_bytes)
        assert hashlib.sha256(data).hexdigest() == digest
        self.blobs[digest] = data

    async def get_blob(self, digest: str, target: Path) -> None:
        if digest not in self.blobs:
            raise StorageError("BLOB_NOT_FOUND", f"there is no blob {digest}")
        self.gets.append(digest)
        await asyncio.to_thread(target.write_bytes, self.blobs[digest])


class Bus:
    """Hands messages to the exchanges of the workers that are there; `lose` says which get lost on their way."""

    def __init__(self) -> None:
        self.workers: dict[Address, BlobExchange] = {}
        self.lose: Callable[[object], bool] = lambda _: False
        self.sent: list[object] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def publish(self, address: Address, message: object) -> None:
        self.sent.append(message)
        exchange = self.workers.get(address)
        if exchange is None:
            raise UnroutableError(f"nobody is at {address}")
        if self.lose(message):
            return
        if isinstance(message, BlobWanted):
            task = asyncio.create_task(exchange.bring(message))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif isinstance(message, BlobReady):
            exchange.take(message)


@dataclass
class World:
    """Workers, each with a cache of its own, around one storage."""

    folder: Path
    storage: MemoryStorage = field(default_factory=MemoryStorage)
    bus: Bus = field(default_factory=Bus)
    caches: dict[str, BlobCache] = field(default_factory=dict)
    exchanges: dict[str, BlobExchange] = field(default_factory=dict)
    quick_hash: Callable[[], Hash] = xxhash.xxh3_128

    def add_worker(self, name: str, *, capacity_bytes: int = 2**30, ask_again_s: float = 10.0) -> BlobCache:
        cache = BlobCache(self.folder / name, capacity_bytes=capacity_bytes, quick_hash=self.quick_hash)
        exchange = BlobExchange(self.bus, cache, name, ask_again_s=ask_again_s, patience_s=0.5)
        self.caches[name], self.exchanges[name] = cache, exchange
        self.bus.workers[worker(name)] = exchange
        return cache

    def blobs(self, name: str = HOME, *, job_id: str = "job", home: str = HOME) -> JobBlobs:
        """Return what a driver or executor of a job on a worker gets."""
        storage: object = self.storage
        return JobBlobs(
            self.caches[name],
            storage,  # type: ignore[arg-type]
            self.exchanges[name],
            job_id=job_id,
            attempt=1,
            home=home,
        )

    def files(self, name: str = HOME) -> list[str]:
        """Return the names of all files that a worker has."""
        return sorted(path.name for path in (self.folder / name).rglob("*") if path.is_file())


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
