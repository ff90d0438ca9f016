"""Names and contents made by machine: whatever comes, it is taken as what it is or refused with a reason."""

from __future__ import annotations

import gzip
import io
import resource
import tarfile
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qonduit_storage.errors import FileContentError, FileNameError
from qonduit_storage.rules.content import UnfoldLimits, check_for
from qonduit_storage.rules.names import check_file_name

LIMITS = UnfoldLimits(free_bytes=4 * 1024**2, limit_bytes=64 * 1024**2)
SAMPLES = [path.read_bytes() for path in sorted(Path(__file__).with_name("samples").glob("*.h5"))]
KINDS = [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
STYLES = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
MEMBERS = st.lists(
    st.tuples(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=300),
        st.sampled_from(KINDS),
        st.binary(max_size=1500),
    ),
    max_size=5,
)


def checked(name: str, data: bytes, piece: int = 700) -> bool:
    """Whether the content is taken; any error but a refusal is a defect."""
    try:
        check = check_for(name, len(data), LIMITS)
        for at in range(0, len(data), piece):
            check.feed(data[at : at + piece])
        check.finish()
    except FileContentError:
        return False
    return True


def packed(members: list[tuple[str, bytes, bytes]], style: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=style, errors="surrogateescape") as tar:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            if kind == tarfile.REGTYPE:
                info.size = len(content)
            elif kind in {tarfile.SYMTYPE, tarfile.LNKTYPE}:
                info.linkname = name[::-1]
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@settings(max_examples=150)
@given(MEMBERS, st.sampled_from(STYLES), st.integers(1, 3000))
def test_whatever_tarfile_writes_is_a_tar(members: list[tuple[str, bytes, bytes]], style: int, piece: int) -> None:
    """Links, devices and `..` are for whoever unpacks: here nothing is."""
    try:
        data = packed(members, style)
    except ValueError:
        return  # A name that this style cannot hold.
    assert checked("a.tar", data, piece)
    assert checked("a.tar", gzip.compress(data), piece)


@settings(max_examples=300)
@given(MEMBERS, st.sampled_from(STYLES), st.data())
def test_a_damaged_tar_is_refused_or_still_a_tar(
    members: list[tuple[str, bytes, bytes]], style: int, data: st.DataObject
) -> None:
    try:
        archive = bytearray(packed(members, style))
    except ValueError:
        return
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(archive) - 1))
        archive[at] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del archive[data.draw(st.integers(0, len(archive))) :]
    if checked("a.tar", bytes(archive)) and archive:
        with tarfile.open(fileobj=io.BytesIO(bytes(archive)), errorlevel=2) as tar:
            for member in tar:
                if member.isreg() and (content := tar.extractfile(member)) is not None:
                    assert len(content.read()) == member.size


@settings(max_examples=300)
@given(
    st.sampled_from(["a.tar", "a.h5"]), st.binary(max_size=5000), st.sampled_from([b"", b"\x1f\x8b\x08", b"\x89HDF"])
)
def test_noise_is_refused(name: str, data: bytes, start: bytes) -> None:
    noise = start + data
    if checked(name, noise):
        assert not noise.strip(b"\0")  # An empty archive is zeros.


@settings(max_examples=200)
@given(st.sampled_from(SAMPLES), st.data())
def test_a_damaged_h5_never_breaks_the_check(sample: bytes, data: st.DataObject) -> None:
    damaged = bytearray(sample)
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, min(len(damaged), 600) - 1))] = data.draw(st.integers(0, 255))
    checked("a.h5", bytes(damaged))
    front = bytes(512 * data.draw(st.sampled_from([1, 2, 4, 8])))
    checked("a.h5", front + sample)
    assert not checked("a.h5", sample[: data.draw(st.integers(0, 40))])


@settings(max_examples=500)
@given(st.text(max_size=300), st.sampled_from(["", ".tar", ".h5", ".TAR", ".zip"]))
def test_a_name_that_is_taken_is_flat_printable_and_not_too_long(stem: str, ending: str) -> None:
    name = stem + ending
    try:
        check_file_name(name)
    except FileNameError:
        return
    assert name.endswith((".tar", ".h5"))
    assert len(name.encode()) <= 255
    assert not {"/", "\\"} & set(name)
    assert not name.startswith(".")
    assert name.isprintable()
    assert not any(unicodedata.category(character) in {"Cc", "Cs", "Co", "Cn"} for character in name)


def memory_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.slow
def test_a_million_members_need_no_memory() -> None:
    info = tarfile.TarInfo("member")
    block = info.tobuf(tarfile.USTAR_FORMAT) * 1000
    check = check_for("a.tar", 1_000_000 * 512 + 1024, LIMITS)
    check.feed(block)
    before = memory_bytes()
    for _ in range(999):
        check.feed(block)
    check.feed(bytes(1024))
    check.finish()
    assert memory_bytes() - before < 20_000_000
