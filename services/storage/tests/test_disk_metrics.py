from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from qonduit_storage.disk import Disk
from qonduit_storage.metrics import StorageMetrics

if TYPE_CHECKING:
    from pathlib import Path


def test_size_of_the_disk_is_told_beside_what_is_free(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    StorageMetrics(Disk(tmp_path, min_free_bytes=0), registry)
    assert registry.get_sample_value("qonduit_storage_size_bytes") == shutil.disk_usage(tmp_path).total
    assert 0 < (registry.get_sample_value("qonduit_storage_free_bytes") or 0) <= shutil.disk_usage(tmp_path).total
