"""Unpacking what somebody else packed."""

from __future__ import annotations

import gzip
import io
import random
import stat
import tarfile
from typing import TYPE_CHECKING

import pytest
import qonduit
from hypothesis import given, settings
from hypothesis import strategies as st
from qonduit.exceptions import UnsafeArchiveError

if TYPE_CHECKING:
    from pathlib import Path


def member(name: str, *, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, mode
    return info


def packed(path: Path, *members: tuple[tarfile.TarInfo, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def everything(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*")) if folder.exists() else []


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_files_and_folders_come_out(tmp_path: Path, mode: str) -> None:
    archive = packed(
        tmp_path / "a.tar",
        (member("folder", kind=tarfile.DIRTYPE, mode=0o755), b""),
        (member("folder/data.txt"), b"data"),
        (member("./run.sh", mode=0o4755), b"#!/bin/sh\n"),
        (member("deep/er/file"), b""),
        mode=mode,
    )
    into = tmp_path / "new" / "place"
    written = qonduit.extract(archive, into)
    assert written == [into / "folder/data.txt", into / "run.sh", into / "deep/er/file"]
    assert (into / "folder/data.txt").read_bytes() == b"data"
    assert (into / "run.sh").stat().st_mode & stat.S_IXUSR
    assert not (into / "run.sh").stat().st_mode & stat.S_ISUID
    assert not (into / "folder/data.txt").stat().st_mode & stat.S_IXUSR


BAD = {
    "absolute": member("/etc/passwd"),
    "above": member("../outside"),
    "above, inside": member("a/../../outside"),
    "of windows": member("C:\\outside"),
    "of windows, above": member("..\\outside"),
    "symbolic": member("link", kind=tarfile.SYMTYPE, link="/etc"),
    "symbolic, inside": member("link", kind=tarfile.SYMTYPE, link="good"),
    "hard": member("link", kind=tarfile.LNKTYPE, link="good"),
    "device": member("null", kind=tarfile.CHRTYPE),
    "block device": member("sda", kind=tarfile.BLKTYPE),
    "pipe": member("pipe", kind=tarfile.FIFOTYPE),
    "twice": member("good"),
    "below a file": member("good/inside"),
    "a folder in place of a file": member("good", kind=tarfile.DIRTYPE),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_what_could_do_harm_is_refused_and_nothing_is_written(tmp_path: Path, bad: tarfile.TarInfo) -> None:
    archive = packed(tmp_path / "a.tar", (member("good"), b"good"), (bad, b""))
    with pytest.raises(UnsafeArchiveError):
        qonduit.extract(archive, tmp_path / "into")
    assert everything(tmp_path / "into") == []
    assert not (tmp_path / "outside").exists()


def test_a_file_in_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    archive = packed(tmp_path / "a.tar", (member("a/b"), b""), (member("a"), b""))
    with pytest.raises(UnsafeArchiveError, match="in the way"):
        qonduit.extract(archive, tmp_path / "into")


def test_nothing_that_is_there_is_replaced(tmp_path: Path) -> None:
    archive = packed(tmp_path / "a.tar", (member("new"), b"new"), (member("old"), b"new"))
    into = tmp_path / "into"
    into.mkdir()
    (into / "old").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        qonduit.extract(archive, into)
    assert everything(into) == [into / "old"]
    assert (into / "old").read_bytes() == b"old"


@pytest.mark.parametrize("dangling", [True, False])
def test_nothing_is_written_through_links_that_are_there(tmp_path: Path, dangling: bool) -> None:  # noqa: FBT001
    outside, into = tmp_path / "outside", tmp_path / "into"
    into.mkdir()
    if not dangling:
        outside.mkdir()
    (into / "a").symlink_to(outside)
    archive = packed(tmp_path / "a.tar", (member("a/file"), b"harm"))
    with pytest.raises((UnsafeArchiveError, FileExistsError)):
        qonduit.extract(archive, into)
    assert everything(outside) == []


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    archive = packed(tmp_path / "a.tar", (member("zeros"), bytes(2_000_000)), mode="w:gz")
    with pytest.raises(UnsafeArchiveError, match="1,000,000 bytes"):
        qonduit.extract(archive, tmp_path / "into", most_bytes=1_000_000)
    assert everything(tmp_path / "into") == []


CONTENT = random.Random(1).randbytes(40_000)  # noqa: S311 - No secret.


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_an_archive_that_is_cut_off_is_an_error(tmp_path: Path, mode: str) -> None:
    whole = packed(tmp_path / "a.tar", (member("first"), b"f"), (member("data"), CONTENT), mode=mode).read_bytes()
    for length in (9, 20, 600, 9_000, 30_000, len(whole) - (1 if ":" in mode else 12_000)):
        (tmp_path / "b.tar").write_bytes(whole[:length])
        with pytest.raises(tarfile.ReadError):
            qonduit.extract(tmp_path / "b.tar", tmp_path / "into")
        assert everything(tmp_path / "into") == []


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_an_archive_with_a_damaged_byte_is_an_error(tmp_path: Path, mode: str) -> None:
    whole = packed(tmp_path / "a.tar", (member("first"), b"f"), (member("data"), CONTENT), mode=mode).read_bytes()
    for place in (len(whole) // 3, len(whole) // 2, len(whole) - 6):
        (tmp_path / "b.tar").write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(tarfile.ReadError):
            qonduit.extract(tmp_path / "b.tar", tmp_path / "into")
        assert everything(tmp_path / "into") == []


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path: Path) -> None:
    archive = packed(tmp_path / "a.tar", (member("first"), b"f"), (member("second"), b"s"))
    whole = archive.read_bytes()
    archive.write_bytes(whole.replace(b"second", b"sEcond"))
    with pytest.raises(tarfile.ReadError, match="byte 1,024 of the tar"):
        qonduit.extract(archive, tmp_path / "into")
    assert everything(tmp_path / "into") == []


def test_what_is_behind_the_members_counts_as_well(tmp_path: Path) -> None:
    whole = packed(tmp_path / "a.tar", (member("first"), b"f")).read_bytes()
    (tmp_path / "b.tar").write_bytes(gzip.compress(whole + bytes(3_000_000)))
    assert qonduit.extract(tmp_path / "b.tar", tmp_path / "into", most_bytes=2_000_000)
    with pytest.raises(UnsafeArchiveError, match="1,000,000 bytes are behind"):
        qonduit.extract(tmp_path / "b.tar", tmp_path / "other", most_bytes=1_000_000)
    assert everything(tmp_path / "other") == []


def test_what_is_no_tar_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(b"PK\x03\x04 and more" * 100)
    with pytest.raises(tarfile.ReadError):
        qonduit.extract(path, tmp_path / "into")


PARTS = st.sampled_from(["a", "b", "..", ".", "", "/", "a/b", "../x", "C:", "\\", "ä", "a\\..\\b"])
KINDS = st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
MEMBERS = st.builds(
    lambda parts, kind, link: member("/".join(parts) or "x", kind=kind, link=link),
    st.lists(PARTS, min_size=1, max_size=4),
    KINDS,
    st.lists(PARTS, max_size=3).map("/".join),
)


@settings(max_examples=300)
@given(members=st.lists(MEMBERS, min_size=1, max_size=6))
def test_whatever_an_archive_holds_nothing_appears_outside(
    tmp_path_factory: pytest.TempPathFactory, members: list[tarfile.TarInfo]
) -> None:
    home = tmp_path_factory.mktemp("home")
    into = home / "into"
    archive = packed(home / "a.tar", *((info, b"x") if info.isreg() else (info, b"") for info in members))
    try:
        written = qonduit.extract(archive, into)
    except (UnsafeArchiveError, FileExistsError):
        assert everything(into) == []
    else:
        assert all(path.resolve().is_relative_to(into.resolve()) for path in written)
        assert not any(path.is_symlink() for path in everything(into))
    assert {path for path in everything(home) if not path.is_relative_to(into)} == {archive}
