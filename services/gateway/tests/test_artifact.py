"""What the gateway reads in a tar that passes by."""

from __future__ import annotations

import io
import tarfile
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qonduit_gateway.functions.artifact import NotATarError, TarListing

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
LONG = "folder/" * 20 + "ünïcode-program.py"


def packed(members: list[tarfile.TarInfo], tar_format: int = tarfile.PAX_FORMAT, size: int = 0) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tar_format) as archive:
        for member in members:
            member.size = size if member.isreg() else 0
            archive.addfile(member, io.BytesIO(bytes(member.size)))
    return out.getvalue()


def read(content: bytes, step: int = 10_000) -> TarListing:
    listing = TarListing()
    for start in range(0, len(content), step):
        listing.feed(content[start : start + step])
    listing.finish()
    return listing


@pytest.mark.parametrize("tar_format", FORMATS)
@pytest.mark.parametrize("step", [1, 511, 512, 513, 100_000])
def test_names_and_sizes_are_found_however_the_bytes_are_cut(tar_format: int, step: int) -> None:
    names = ["./program.py", "data/file.bin", *([] if tar_format == tarfile.USTAR_FORMAT else [LONG])]
    listing = read(packed([tarfile.TarInfo(name) for name in names], tar_format, size=700), step)

    assert [member.path for member in listing.members] == [name.removeprefix("./") for name in names]
    assert {member.size_bytes for member in listing.members} == {700}
    assert not listing.unsafe


@pytest.mark.parametrize("name", ["/etc/passwd", "../up.py", "a/../../b"])
def test_names_that_leave_the_folder_are_unsafe(name: str) -> None:
    assert read(packed([tarfile.TarInfo(name)], tarfile.USTAR_FORMAT)).unsafe == [name]


def test_devices_are_unsafe_and_folders_and_links_are_not() -> None:
    kinds = {"dev": tarfile.CHRTYPE, "pipe": tarfile.FIFOTYPE, "folder": tarfile.DIRTYPE, "link": tarfile.SYMTYPE}
    members = []
    for name, kind in kinds.items():
        member = tarfile.TarInfo(name)
        member.type = kind
        members.append(member)
    assert read(packed(members)).unsafe == ["dev", "pipe"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x1f\x8b" + bytes(600), "gzip"),
        (b"PK\x03\x04" + bytes(600), "zip"),
        (b"just text " * 100, "not a tar"),
        (b"short", "ends in the middle"),
        (b"", "ends in the middle"),
    ],
)
def test_what_is_no_tar_is_named(content: bytes, said: str) -> None:
    with pytest.raises(NotATarError, match=said):
        read(content)


def test_a_tar_that_was_cut_off_is_refused() -> None:
    whole = packed([tarfile.TarInfo("program.py")], size=5000)
    with pytest.raises(NotATarError, match="ends in the middle"):
        read(whole[:3000])


def pax_header(body: bytes) -> bytes:
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, len(body)
    return header.tobuf(tarfile.USTAR_FORMAT) + body.ljust(-(-len(body) // 512) * 512, b"\0")


def test_headers_of_very_many_records_do_not_hold_up_the_service() -> None:
    def cpu_s_with(headers: bytes) -> float:
        content = headers + packed([tarfile.TarInfo("program.py")])
        begun = time.process_time()
        assert [member.path for member in read(content, 1_000_000).members] == ["program.py"]
        return time.process_time() - begun

    record = b"5 a=\n"
    ten, one = pax_header(record * 20_000) * 10, pax_header(record * 200_000)
    # A machine that is slower for a moment makes some of them dearer, and none cheaper.
    spent = [(cpu_s_with(ten), cpu_s_with(one)) for _ in range(3)]
    in_ten, in_one = min(each for each, _ in spent), min(each for _, each in spent)
    assert in_one < 5 * in_ten, "a record costs the same in a header of whatever size"


def test_a_size_beyond_all_files_is_not_believed() -> None:
    record = b"size=" + b"9" * 5000 + b"\n"
    content = pax_header(b"5011 " + record) + packed([tarfile.TarInfo("program.py")])
    assert [member.size_bytes for member in read(content).members] == [0]


@given(st.binary(max_size=3000), st.integers(1, 700))
@settings(max_examples=200)
def test_any_bytes_are_read_or_refused(noise: bytes, step: int) -> None:
    valid = packed([tarfile.TarInfo(LONG)])
    for content in (noise, valid[:512] + noise, valid[: len(noise)] + noise):
        try:
            read(content, step)
        except NotATarError:
            continue
