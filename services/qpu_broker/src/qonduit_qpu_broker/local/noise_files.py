"""Tables of devices' noise in files: one for each device, whole or not there, and no more than there is room for."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from qonduit_service_kit.logs import get_logger

from qonduit_qpu_broker.simulator.frames import NOISE_FORM

if TYPE_CHECKING:
    from qonduit_qpu_broker.local.catalog import DeviceCatalog

_log = get_logger("noise-files")
_MADE_BY = ("qiskit-aer", "qiskit", "numpy")
_MAX_ORIGINS = 128
_MAX_TABLE_BYTES = 32 * 1024**2
_ABANDONED_S = 3600.0
"""After so long, what was begun to be written is of a broker that died."""


class NoiseFiles:
    """Reads and writes the tables. Brokers with one folder don't disturb each other: a file comes and goes whole.

    The first line tells what a table was made of and with, and the digest of what follows. What doesn't fit is
    removed, and made again as if it had never been there.
    """

    def __init__(self, folder: Path, catalog: DeviceCatalog, max_bytes: int) -> None:
        self._folder = folder
        self._catalog = catalog
        self._max_bytes = max_bytes
        self._origin = lru_cache(_MAX_ORIGINS)(self._find_origin)

    def read(self, device: str) -> bytes:
        """Return a device's table, or nothing when there is none that fits."""
        path = self._path(device)
        try:
            with path.open("rb") as file:
                header, _, table = file.read(_MAX_TABLE_BYTES).partition(b"\n")
            os.utime(path)
        except FileNotFoundError:
            return b""
        except OSError as error:
            _log.warning("a kept noise model can't be read; it is built instead", device=device, reason=str(error))
            return b""
        if header == self._header(device, table):
            return table
        self.drop(device, "It is damaged, or of another calibration or version.")
        return b""

    def exists(self, device: str) -> bool:
        """Whether there is a file for a device; `read` knows whether it fits."""
        return self._path(device).exists()

    def drop(self, device: str, reason: str) -> None:
        """Remove what can't be used."""
        _log.warning("a kept noise model does not fit; it is made again", device=device, reason=reason)
        with suppress(OSError):
            self._path(device).unlink()

    def write(self, device: str, table: bytes) -> None:
        """Keep a table, and remove those used longest ago where there are too many."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._folder, suffix=".part", delete=False) as part:
                part.write(self._header(device, table) + b"\n" + table)
            Path(part.name).replace(self._path(device))
            self._tidy()
        except OSError as error:
            _log.warning("a noise model is not kept", device=device, reason=str(error))

    def _tidy(self) -> None:
        left = self._max_bytes
        for path, stat in sorted(self._there("*.noise"), key=lambda entry: -entry[1].st_mtime):
            left -= stat.st_size
            if left < 0:
                path.unlink(missing_ok=True)
        for path, stat in self._there("*.part"):
            if stat.st_mtime < time.time() - _ABANDONED_S:
                path.unlink(missing_ok=True)

    def _there(self, pattern: str) -> list[tuple[Path, os.stat_result]]:
        found = []
        for path in self._folder.glob(pattern):
            with suppress(FileNotFoundError):  # Another broker has just given it its name, or removed it.
                found.append((path, path.stat()))
        return found

    def _path(self, device: str) -> Path:
        return self._folder / f"{device}.noise"

    def _header(self, device: str, table: bytes) -> bytes:
        return json.dumps({**self._origin(device), "table": hashlib.sha256(table).hexdigest()}).encode()

    def _find_origin(self, device: str) -> dict[str, str]:
        """Return all that decides what is in a table."""
        described = {"form": str(NOISE_FORM), "device": device, "calibration": self._catalog.digest(device)}
        return described | {package: version(package) for package in _MADE_BY}
