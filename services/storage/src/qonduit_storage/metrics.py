"""Every metric of the storage service."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge
from qonduit_service_kit.metrics import REGISTRY

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from qonduit_storage.disk import Disk


class StorageMetrics:
    """Counters by kind: blob, file, log."""

    def __init__(self, disk: Disk, registry: CollectorRegistry = REGISTRY) -> None:
        self.stored = Counter(
            "qonduit_storage_stored_bytes_total",
            "Bytes of finished uploads and appended logs.",
            ["kind"],
            registry=registry,
        )
        self.served = Counter(
            "qonduit_storage_served_bytes_total", "Bytes sent to readers.", ["kind"], registry=registry
        )
        self.refusals = Counter(
            "qonduit_storage_refusals_total", "Calls that were refused, by reason.", ["reason"], registry=registry
        )
        free = Gauge("qonduit_storage_free_bytes", "Free space of the disk that holds the data.", registry=registry)
        free.set_function(disk.free_bytes)
        size = Gauge("qonduit_storage_size_bytes", "Size of the disk that holds the data.", registry=registry)
        size.set_function(disk.size_bytes)
        reserved = Gauge("qonduit_storage_reserved_bytes", "Space promised to running uploads.", registry=registry)
        reserved.set_function(lambda: disk.reserved_bytes)
