"""What is a tar, and what only looks like one."""

# ruff: noqa: S311 - Random bytes are content here, and the same in each run.

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import shutil
import subprocess
import tarfile
import zipfile
from functools import partial
from typing import TYPE_CHECKING

import pytest
from qonduit_storage.errors import FileContentError
from qonduit_storage.rules.content import ArchiveCheck, UnfoldLimits

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BLOCK = 512
gzipped = partial(gzip.compress, mtime=0)
"""Without the time the bytes, which name some tests, are the same in each run."""
LIMITS = UnfoldLimits(free_bytes=4 * 1024**2, limit_bytes=64 * 1024**2)


def check(data: bytes, piece: int = 1024**2) -> None:
    """Feeds the bytes in pieces of a size."""
    archive = ArchiveCheck(LIMITS)
    for at in range(0, len(data), piece):
        archive.feed(data[at : at + piece])
    archive.finish()


def rechecked(header: bytearray) -> bytes:
    """A header with its checksum made right again."""
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return bytes(header)


def archive_of(*members: tarfile.TarInfo, style: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=style) as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(b"x" * member.size))
    return out.getvalue()


def member(name: str, size: int = 700, **fields: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.size = size
    for field, value in fields.items():
        setattr(made, field, value)
    return made


@pytest.mark.parametrize("style", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("piece", [1, 511, 512, 513, 1024**2])
def test_tars_of_every_style_in_any_pieces(style: int, piece: int) -> None:
    long_name = "n" * 90 if style == tarfile.USTAR_FORMAT else "n" * 300
    link = member("link", 0, type=tarfile.SYMTYPE, linkname="/etc/passwd")
    folder = member("folder", 0, type=tarfile.DIRTYPE)
    check(archive_of(member("a"), folder, link, member(long_name), member("empty", 0), style=style), piece)


def test_a_tar_without_members_is_a_tar() -> None:
    check(archive_of())


def test_a_tar_may_end_without_end_mark() -> None:
    check(archive_of(member("a", 512))[: 2 * BLOCK])


def test_numbers_in_base_256() -> None:
    header = bytearray(archive_of(member("a", 700))[:BLOCK])
    header[124:136] = b"\x80" + (700).to_bytes(11, "big")
    check(rechecked(header) + bytes(2 * BLOCK) + bytes(2 * BLOCK))


def test_a_size_in_a_pax_header_counts() -> None:
    sized = member("a", 700, pax_headers={"size": "700"})
    data = archive_of(sized)
    check(data)
    with pytest.raises(FileContentError, match="cut off"):
        check(archive_of(member("a", 700, pax_headers={"size": "7000000"}))[: 4 * BLOCK])


def test_what_gnu_tar_writes(tmp_path: Path) -> None:
    if shutil.which("tar") is None:
        pytest.skip("no tar on this machine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / ("long" * 50)).write_bytes(random.Random(1).randbytes(5000))
    (tmp_path / "link").symlink_to("folder")
    for style in ("gnu", "pax", "ustar", "v7"):
        names = ["link"] if style in ("ustar", "v7") else ["folder", "link"]
        command = ["tar", "-C", str(tmp_path), f"--format={style}", "-cf", "-", *names]
        check(subprocess.run(command, check=True, capture_output=True).stdout)


@pytest.mark.parametrize("mode", ["w:gz"])
def test_gzip_compressed_tars(make_tar: Callable[..., bytes], mode: str) -> None:
    data = make_tar(random.Random(2).randbytes(300_000), b"b" * 1000, mode=mode)
    for piece in (1000, 1024**2):
        check(data, piece)
    check(data + bytes(512))


def test_gzip_of_several_members(make_tar: Callable[..., bytes]) -> None:
    tar = make_tar(b"a" * 5000)
    check(gzipped(tar[:700]) + gzipped(tar[700:]), 37)


def test_every_cut_is_found(make_tar: Callable[..., bytes]) -> None:
    data = make_tar(b"a" * 700, b"b" * 10)
    members = [3 * BLOCK, 5 * BLOCK]
    for size in range(1, members[-1]):
        if size in members:
            continue
        with pytest.raises(FileContentError):
            check(data[:size])


def test_every_cut_of_a_gzip_is_found(make_tar: Callable[..., bytes]) -> None:
    data = make_tar(b"a" * 700, mode="w:gz")
    for size in range(1, len(data)):
        with pytest.raises(FileContentError):
            check(data[:size])


def test_every_changed_header_byte_is_found(make_tar: Callable[..., bytes]) -> None:
    data = bytearray(make_tar(b"a" * 700))
    for at in [*range(148), *range(156, BLOCK)]:
        data[at] ^= 1
        with pytest.raises(FileContentError):
            check(bytes(data))
        data[at] ^= 1


def zip_of() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a", "content")
    return out.getvalue()


PLAIN = archive_of(member("a"))


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"just a text\n" * 100, "plain text"),
        (b"short", "plain text"),
        (b"{}", "JSON"),
        (zip_of(), "a zip archive"),
        (bz2.compress(b"short"), "compressed by bzip2; use gzip"),
        (lzma.compress(b"short"), "compressed by xz; use gzip"),
        (gzipped(b"[1, 2]"), "JSON"),
        (b"\0\x01short", "cut off"),
        (PLAIN[: BLOCK // 2], "cut off"),
        (bytes(512), "no member"),
        (zip_of() + bytes(512), "zip"),
        (bz2.compress(random.Random(3).randbytes(5000)), "bzip2"),
        (lzma.compress(random.Random(3).randbytes(5000)), "xz"),
        (gzipped(gzipped(random.Random(4).randbytes(5000))), "compressed by gzip; compress it once"),
        (gzipped(b"just a text\n" * 100), "plain text"),
        (b"\x89HDF\r\n\x1a\n" + bytes(600), ".h5"),
        (PLAIN + PLAIN, "glued"),
        (PLAIN + b"more", "glued"),
        (gzipped(PLAIN) + gzipped(PLAIN), "glued"),
        (gzipped(PLAIN) + b"more", "damaged"),
        (PLAIN[: 3 * BLOCK] + bytes(BLOCK) + PLAIN, "single block of zeros"),
        (archive_of(member("a", 0, type=tarfile.GNUTYPE_SPARSE)), "sparse"),
        (archive_of(member("a", pax_headers={"GNU.sparse.major": "1"})), "sparse"),
        (archive_of(member("a", pax_headers={"size": "-5"})), "size"),
    ],
)
def test_what_is_no_sound_tar_is_told_why(data: bytes, word: str) -> None:
    for piece in (100, 1024**2):
        with pytest.raises(FileContentError, match="only tar archives are kept") as caught:
            check(data, piece)
        assert word in str(caught.value)


@pytest.mark.parametrize("style", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("at", [0, 124, 148, 257])
def test_a_damaged_first_header_is_told_as_such(style: int, at: int) -> None:
    data = bytearray(archive_of(member("a"), style=style))
    data[at] ^= 0x40
    with pytest.raises(FileContentError, match=r"the checksum of its first header is wrong; was the file damaged\?"):
        check(bytes(data))


def test_a_damaged_first_header_without_magic_is_told_as_such() -> None:
    data = bytearray(archive_of(member("a")))
    data[257:265] = bytes(8)
    with pytest.raises(FileContentError, match="the checksum of its first header is wrong"):
        check(bytes(data))


def test_a_refusal_that_asks_has_one_mark_at_its_end() -> None:
    with pytest.raises(FileContentError, match=r"cut off\? Under a name"):
        check(PLAIN[:BLOCK])


def test_a_global_size_is_refused() -> None:
    record = b"12 size=700\n"
    header = bytearray(archive_of(member("a", len(record)))[:BLOCK])
    header[156:157] = b"g"
    with pytest.raises(FileContentError, match="different ways"):
        check(rechecked(header) + record.ljust(BLOCK, b"\0") + PLAIN)


def test_a_huge_extended_header_is_refused_before_it_is_read() -> None:
    header = bytearray(archive_of(member("a"))[:BLOCK])
    header[156:157] = b"x"
    header[124:136] = b"77777777777\0"
    with pytest.raises(FileContentError, match="extended header"):
        check(rechecked(header))


def test_a_gzip_bomb_is_refused_early() -> None:
    bomb = gzipped(_zeros_tar(200 * 1024**2), 9)
    with pytest.raises(FileContentError, match="bomb"):
        check(bomb)


def _zeros_tar(size: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.addfile(member("zeros", size), io.BytesIO(bytes(size)))
    return out.getvalue()


def test_a_checksum_of_signed_bytes_is_accepted() -> None:
    header = bytearray(archive_of(member("größe".encode().decode("latin-1"), 0), style=tarfile.GNU_FORMAT)[:BLOCK])
    header[148:156] = b" " * 8
    signed = sum(byte - 256 if byte > 127 else byte for byte in header)
    header[148:156] = f"{signed:06o}\0 ".encode()
    check(bytes(header) + bytes(2 * BLOCK))
