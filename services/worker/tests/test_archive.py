from __future__ import annotations

import io
import tarfile
from typing import TYPE_CHECKING

import pytest
from qonduit_worker.archive import BadArchiveError, unpack

if TYPE_CHECKING:
    from pathlib import Path


def archive(tmp_path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    path = tmp_path / "artifact.tar"
    with tarfile.open(path, "w:gz") as tar:
        for info, data in members:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "job"
    made.mkdir()
    return made


def test_files_and_folders_are_unpacked(tmp_path: Path, folder: Path) -> None:
    script = member("deep/run.sh")
    script.mode = 0o700
    path = archive(
        tmp_path, (member("./main.py"), b"print()"), (member("deep", tarfile.DIRTYPE), b""), (script, b"#!/bin/sh")
    )
    unpack(path, folder, most_bytes=1000)
    assert (folder / "main.py").read_bytes() == b"print()"
    assert (folder / "deep" / "run.sh").stat().st_mode & 0o100


@pytest.mark.parametrize(
    "bad",
    [
        member("../outside"),
        member("a/../../outside"),
        member("/etc/outside"),
        member("link", tarfile.SYMTYPE, "/etc/passwd"),
        member("hard", tarfile.LNKTYPE, "main.py"),
        member("pipe", tarfile.FIFOTYPE),
        member("device", tarfile.CHRTYPE),
    ],
    ids=lambda info: info.name,
)
def test_what_reaches_outside_is_refused(tmp_path: Path, folder: Path, bad: tarfile.TarInfo) -> None:
    path = archive(tmp_path, (member("main.py"), b"x"), (bad, b""))
    with pytest.raises(BadArchiveError, match=bad.name):
        unpack(path, folder, most_bytes=1000)
    assert not (tmp_path / "outside").exists()


def test_more_than_is_allowed_is_refused(tmp_path: Path, folder: Path) -> None:
    path = archive(tmp_path, (member("zeros"), b"\0" * 100_000))
    with pytest.raises(BadArchiveError, match="more than"):
        unpack(path, folder, most_bytes=99_999)


def test_what_is_no_archive_is_refused(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "artifact.tar"
    path.write_bytes(b"no tar at all")
    with pytest.raises(BadArchiveError):
        unpack(path, folder, most_bytes=1000)
