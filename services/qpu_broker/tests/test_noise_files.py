"""Files of noise: what is read is what was written for this device, calibration and version, or nothing."""

from __future__ import annotations

import os
import shutil
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from noisy_corners import CATALOG
from qonduit_qpu_broker.local import noise_files
from qonduit_qpu_broker.local.catalog import DeviceCatalog
from qonduit_qpu_broker.local.noise_files import NoiseFiles
from structlog.testing import capture_logs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DEVICE = "ibm_torino"
TABLE = bytes(range(256)) * 8
ROOM = 1024**2


@pytest.fixture
def files(tmp_path: Path) -> NoiseFiles:
    return NoiseFiles(tmp_path, CATALOG, ROOM)


def _ignored(files: NoiseFiles, device: str = DEVICE) -> bool:
    """Whether a device's file is ignored and removed, with one line that says so."""
    with capture_logs() as lines:
        found = files.read(device)
    told = [line for line in lines if line.get("device") == device and line["log_level"] == "warning"]
    return found == b"" and not files.exists(device) and len(told) == len(lines) == 1


def test_what_was_written_is_read_also_by_the_next_broker(tmp_path: Path, files: NoiseFiles) -> None:
    with capture_logs() as lines:
        assert files.read(DEVICE) == b""
        assert not files.exists(DEVICE)
        files.write(DEVICE, TABLE)
        assert files.read(DEVICE) == NoiseFiles(tmp_path, CATALOG, ROOM).read(DEVICE) == TABLE
    assert lines == []
    assert [path.name for path in tmp_path.iterdir()] == [f"{DEVICE}.noise"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[:0],
        lambda whole: whole[:40],
        lambda whole: whole[:-1],
        lambda whole: whole[:-9] + b"x" + whole[-8:],
        lambda whole: whole + b"x",
        lambda _: b"\x00" * 5000,
    ],
)
def test_a_damaged_file_is_ignored_and_removed(
    tmp_path: Path, files: NoiseFiles, damage: Callable[[bytes], bytes]
) -> None:
    files.write(DEVICE, TABLE)
    path = tmp_path / f"{DEVICE}.noise"
    path.write_bytes(damage(path.read_bytes()))
    assert _ignored(files)


def test_another_devices_file_is_ignored(tmp_path: Path, files: NoiseFiles) -> None:
    files.write("ibm_fez", TABLE)
    shutil.copy(tmp_path / "ibm_fez.noise", tmp_path / f"{DEVICE}.noise")
    assert _ignored(files)
    assert files.read("ibm_fez") == TABLE


def test_a_file_of_another_version_is_ignored(files: NoiseFiles, tmp_path: Path, monkeypatch: Any) -> None:
    files.write(DEVICE, TABLE)
    monkeypatch.setattr(noise_files, "version", lambda package: f"{package} 99")
    assert _ignored(NoiseFiles(tmp_path, CATALOG, ROOM))


def test_a_file_of_another_form_is_ignored(files: NoiseFiles, tmp_path: Path, monkeypatch: Any) -> None:
    files.write(DEVICE, TABLE)
    monkeypatch.setattr(noise_files, "NOISE_FORM", noise_files.NOISE_FORM + 1)
    assert _ignored(NoiseFiles(tmp_path, CATALOG, ROOM))


def test_a_file_of_another_calibration_is_ignored(files: NoiseFiles, tmp_path: Path) -> None:
    files.write(DEVICE, TABLE)
    described = tmp_path / "described" / "torino"
    shutil.copytree(CATALOG.facts(DEVICE).folder, described)
    catalog = DeviceCatalog(tmp_path / "described")
    assert NoiseFiles(tmp_path, catalog, ROOM).read(DEVICE) == TABLE, "where it is described does not matter"
    properties = described / "props_torino.json"
    properties.write_bytes(properties.read_bytes().replace(b"0.0", b"0.1", 1))
    assert _ignored(NoiseFiles(tmp_path, catalog, ROOM))


def test_those_used_longest_ago_give_way(tmp_path: Path) -> None:
    files = NoiseFiles(tmp_path, CATALOG, 3 * len(TABLE))
    for age, device in enumerate(("ibm_fez", "ibm_torino"), 1):
        files.write(device, TABLE)
        os.utime(tmp_path / f"{device}.noise", (time.time() - 100 * age,) * 2)
    assert files.read("ibm_torino"), "read now, so used last"
    files.write("ibm_brisbane", TABLE)
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["ibm_brisbane", "ibm_torino"]


def test_what_a_dead_broker_left_half_written_is_removed_in_time(tmp_path: Path, files: NoiseFiles) -> None:
    for name, age in (("old.part", 7200), ("new.part", 60)):
        (tmp_path / name).write_bytes(b"half")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    files.write(DEVICE, TABLE)
    assert sorted(path.name for path in tmp_path.glob("*.part")) == ["new.part"]


def test_without_a_place_nothing_is_kept_and_nothing_fails(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    files = NoiseFiles(tmp_path / "file", CATALOG, ROOM)
    with capture_logs() as lines:
        files.write(DEVICE, TABLE)
        assert files.read(DEVICE) == b""
        assert not files.exists(DEVICE)
    assert {line["log_level"] for line in lines} == {"warning"}


def test_two_brokers_at_once_never_see_half_a_file(tmp_path: Path) -> None:
    tables = [bytes([number]) * 300_000 for number in (1, 2)]
    brokers = [NoiseFiles(tmp_path, CATALOG, ROOM) for _ in tables]
    brokers[0].write(DEVICE, tables[0])

    def write(broker: NoiseFiles, table: bytes) -> None:
        for _ in range(60):
            broker.write(DEVICE, table)

    threads = [threading.Thread(target=write, args=pair) for pair in zip(brokers, tables, strict=True)]
    seen = set()
    with capture_logs() as lines:
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            seen.add(brokers[0].read(DEVICE))
        for thread in threads:
            thread.join()
    assert seen <= set(tables)
    assert lines == []
