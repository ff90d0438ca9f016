"""What every driver and executor of this worker works with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qonduit_worker.blobs import JobBlobs
from qonduit_worker.sandbox import Limits, SandboxSpec
from qonduit_worker.storage import Storage

if TYPE_CHECKING:
    from pathlib import Path

    import grpc
    from qonduit_service_kit.bus import Bus
    from qonduit_service_kit.messages import Shape

    from qonduit_worker.blob_exchange import BlobExchange
    from qonduit_worker.blobs import BlobCache
    from qonduit_worker.dependencies import Layer, LayerStore
    from qonduit_worker.qpu_endpoint import DeviceCache
    from qonduit_worker.refused_files import RefusedFiles
    from qonduit_worker.room import Room
    from qonduit_worker.settings import WorkerSettings
    from qonduit_worker.zygotes import ZygotePool

DRIVER_ENTRY = "qonduit.program.runner:run_driver"
EXECUTOR_ENTRY = "qonduit.program.runner:run_executor"


@dataclass(frozen=True, slots=True)
class Workshop:
    """The worker's shared parts."""

    worker_id: str
    settings: WorkerSettings
    bus: Bus
    channel: grpc.aio.Channel
    cache: BlobCache
    zygotes: ZygotePool
    devices: DeviceCache
    layers: LayerStore
    rooms: Path
    exchange: BlobExchange
    refused: RefusedFiles

    def storage(self, ticket: str) -> Storage:
        """Return storage as this ticket may use it."""
        return Storage(self.channel, ticket, patience_s=self.settings.storage_patience_s)

    def blobs(self, storage: Storage, *, job_id: str, attempt: int, home: str) -> JobBlobs:
        """Return the blobs of one driver or executor, to be closed with it; `home` is its driver's worker."""
        return JobBlobs(self.cache, storage, self.exchange, job_id=job_id, attempt=attempt, home=home)

    def sandbox(
        self, room: Room, shape: Shape, environment: dict[str, str], entry: str, layer: Layer | None = None
    ) -> SandboxSpec:
        """Return the sandbox for a room, with a layer of packages that is held until the sandbox is over."""
        settings = self.settings
        limits = Limits(
            cpu=shape.cpu_millis / 1000,
            mem_bytes=shape.mem_bytes,
            tmp_bytes=settings.tmp_bytes,
            file_bytes=settings.file_bytes,
            pids=settings.pids,
        )
        packages = layer.packages if layer is not None else None
        return SandboxSpec(room.sandbox_id, room.directory, limits, environment, entry, packages)
