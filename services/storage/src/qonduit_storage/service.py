"""Puts the service together."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from qonduit_api.internal.v1 import storage_pb2 as pb
from qonduit_api.internal.v1 import storage_pb2_grpc as pb_grpc
from qonduit_service_kit import content
from qonduit_service_kit.chunks import ChunkInterceptor
from qonduit_service_kit.logs import get_logger
from qonduit_service_kit.memory import keep_large_pieces
from qonduit_service_kit.metrics import REGISTRY
from qonduit_service_kit.rpc import GrpcServer
from qonduit_service_kit.tickets import load_or_create_key

from qonduit_storage.access import Doorkeeper
from qonduit_storage.blobs import BlobStore
from qonduit_storage.directory import DirectoryObjects
from qonduit_storage.disk import Disk
from qonduit_storage.errors import StorageError
from qonduit_storage.logs.log import LogLimits
from qonduit_storage.logs.store import LogStore
from qonduit_storage.metrics import StorageMetrics
from qonduit_storage.partials import Partials
from qonduit_storage.rules.content import UnfoldLimits
from qonduit_storage.servicers.blobs import BlobServicer
from qonduit_storage.servicers.desk import Desk
from qonduit_storage.servicers.logs import LogServicer
from qonduit_storage.servicers.spaces import SpaceServicer
from qonduit_storage.spaces.store import SpaceStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    import grpc.aio
    from prometheus_client import CollectorRegistry
    from qonduit_service_kit.lifecycle import Part

    from qonduit_storage.objects import Objects
    from qonduit_storage.settings import StorageSettings

_SERVICES = tuple(service.full_name for service in pb.DESCRIPTOR.services_by_name.values())
_log = get_logger("storage")


class DiskPart:
    """The data folder, held while the service runs, and what else keeps bytes."""

    def __init__(self, disk: Disk, objects: Objects, partials: Partials) -> None:
        self._disk = disk
        self._objects = objects
        self._partials = partials
        self._expiring: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Takes the folder, and clears away what a crash left.

        Raises:
            StorageError: another process has it.
        """
        await asyncio.to_thread(self._disk.open)
        kept = await asyncio.to_thread(self._partials.recover)
        left_over = await asyncio.to_thread(self._disk.sweep)
        await self._objects.prepare()
        _log.info("data folder opened", folder=str(self._disk.root), free_bytes=self._disk.free_bytes())
        if kept or left_over:
            _log.warning("uploads had not ended", can_go_on=kept, removed=left_over)
        self._expiring = asyncio.create_task(self._partials.expire_now_and_then(), name="expire-partial-uploads")

    async def stop(self) -> None:
        """Lets go of the folder."""
        if self._expiring is not None:
            self._expiring.cancel()
        await asyncio.to_thread(self._disk.close)


async def build(settings: StorageSettings, registry: CollectorRegistry = REGISTRY) -> Sequence[Part]:
    """The parts of the service, in the order in which they start.

    Raises:
        StorageError: no key file is set.
    """
    if settings.internal_key_file is None:
        raise StorageError("Set QONDUIT_STORAGE_INTERNAL_KEY_FILE to the file with the key that all services share.")
    keep_large_pieces()
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(settings.io_threads, "storage-io"))
    disk = Disk(settings.data_dir, min_free_bytes=settings.min_free_bytes)
    desk = Desk(
        Doorkeeper(load_or_create_key(settings.internal_key_file)),
        StorageMetrics(disk, registry),
        settings.upload_idle_s,
    )
    logs = LogStore(disk, LogLimits(settings.log_cap_bytes, settings.log_segment_bytes))
    unfold = UnfoldLimits(settings.unfold_free_bytes, settings.unfold_limit_bytes)
    objects = _objects(settings, disk)
    blobs = BlobStore(disk, objects, max_bytes=settings.max_blob_bytes)
    blob_servicer = BlobServicer(desk, blobs)
    partials = Partials(disk, kept_s=settings.partial_kept_s)
    spaces = SpaceStore(disk, objects, partials, max_bytes=settings.max_file_bytes, unfold=unfold)
    space_servicer = SpaceServicer(desk, spaces)
    log_servicer = LogServicer(desk, logs, sync_interval_s=settings.log_sync_interval_s)

    def register(server: grpc.aio.Server) -> None:
        pb_grpc.add_BlobServiceServicer_to_server(blob_servicer, server)
        pb_grpc.add_SpaceServiceServicer_to_server(space_servicer, server)
        pb_grpc.add_LogServiceServicer_to_server(log_servicer, server)

    server = GrpcServer(
        register,
        services=_SERVICES,
        host=settings.listen_host,
        port=settings.listen_port,
        interceptors=(ChunkInterceptor(*content.METHODS),),
        tls_cert=settings.tls_cert,
        tls_key=settings.tls_key,
        allow_insecure=settings.allow_insecure,
        registry=registry,
    )
    # Parts stop in reverse: followers are let go first, so that the server has no stream that never ends.
    return (DiskPart(disk, objects, partials), server, logs)


def _objects(settings: StorageSettings, disk: Disk) -> Objects:
    if not settings.s3_bucket:
        return DirectoryObjects(disk)
    try:
        from qonduit_storage.s3 import S3Objects, s3_store  # noqa: PLC0415 - Only who uses S3 has installed it.
    except ModuleNotFoundError as error:
        raise StorageError("An S3 bucket is set, and obstore is missing: install qonduit-storage[s3].") from error
    return S3Objects(s3_store(settings))
