"""What is an HDF5 file. The samples were written by h5py with each kind of superblock and user block."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from qonduit_storage.errors import FileContentError
from qonduit_storage.rules.content import UnfoldLimits, check_for

if TYPE_CHECKING:
    from collections.abc import Callable

SAMPLES = sorted(Path(__file__).with_name("samples").glob("*.h5"))
SIGNATURE = b"\x89HDF\r\n\x1a\n"
LATEST = Path(__file__).with_name("samples").joinpath("latest.h5").read_bytes()


def check(data: bytes, piece: int = 1024**2) -> None:
    checked = check_for("sample.h5", len(data), UnfoldLimits())
    for at in range(0, len(data), piece):
        checked.feed(data[at : at + piece])
    checked.finish()


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
@pytest.mark.parametrize("piece", [1, 7, 512, 1024**2])
def test_samples_in_any_pieces(sample: Path, piece: int) -> None:
    check(sample.read_bytes(), piece)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_every_cut_is_found(sample: Path) -> None:
    data = sample.read_bytes()
    for size in range(1, len(data), 13):
        with pytest.raises(FileContentError):
            check(data[:size])


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"just a text\n" * 100, "no HDF5 signature"),
        (b"x", "no HDF5 signature"),
        (b"x" * 256 + LATEST, "no HDF5 signature"),
        (SIGNATURE, "superblock"),
        (SIGNATURE + b"\x09" + bytes(600), "version 9"),
        (SIGNATURE + b"\x03\x07\x08" + bytes(600), "superblock"),
    ],
)
def test_what_is_no_hdf5_is_told_why(data: bytes, word: str) -> None:
    with pytest.raises(FileContentError, match="only HDF5 files are kept") as caught:
        check(data)
    assert word in str(caught.value)


def test_a_refusal_tells_what_the_content_looks_like(make_tar: Callable[..., bytes]) -> None:
    v7 = bytearray(make_tar(b"a"))
    v7[257:265] = bytes(8)
    contents = {
        "a tar archive; name it .tar": make_tar(b"a"),
        "a tar archive; name": bytes(v7),
        "something compressed by gzip; if that is of a tar, name it .tar": make_tar(b"a", mode="w:gz"),
        "a zip archive)": b"PK\x03\x04" + bytes(600),
        "JSON)": b'{"a": 1}',
        "plain text)": b"just a text\n" * 100,
    }
    for words, data in contents.items():
        for piece in (10, 1024**2):
            with pytest.raises(FileContentError, match="no HDF5 signature") as caught:
                check(data, piece)
            assert f"(it looks like {words}" in str(caught.value)
    with pytest.raises(FileContentError, match=r"no HDF5 signature\."):
        check(bytes(600))


@pytest.mark.parametrize("name", ["empty.h5", "empty.tar"])
def test_an_empty_file_is_refused(name: str) -> None:
    with pytest.raises(FileContentError, match="is empty"):
        check_for(name, 0, UnfoldLimits())
