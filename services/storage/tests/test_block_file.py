"""Files that are written past the page cache."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from qonduit_storage import block_file
from qonduit_storage.block_file import BlockFile

if TYPE_CHECKING:
    from pathlib import Path

BLOCK = 64 * 1024


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_file, "_BLOCK_BYTES", BLOCK)


def some_bytes(size: int) -> bytes:
    return random.Random(size).randbytes(size)  # noqa: S311 - No secret.


def write_pieces(file: BlockFile, content: bytes) -> None:
    chance = random.Random(len(content))  # noqa: S311 - As above.
    at = 0
    while at < len(content):
        size = chance.choice((1, 511, 4096, 10_000, BLOCK, 3 * BLOCK))
        file.write(memoryview(content)[at : at + size])
        at += size


def fill(path: Path, content: bytes, offset: int) -> None:
    """Go on at an offset with what is missing."""
    if offset:
        path.write_bytes(content[:offset] + b"what came after it")
    file = BlockFile(path, offset=offset)
    assert b"".join(iter(lambda: file.read(BLOCK), b"")) == content[:offset]
    write_pieces(file, content[offset:])
    file.sync()
    file.close()


@pytest.mark.parametrize("offset", [0, 100, 4096, BLOCK - 1, BLOCK, BLOCK + 4096, 5 * BLOCK + 1])
@pytest.mark.parametrize("size", [6 * BLOCK, 6 * BLOCK + 1, 10 * BLOCK + 4097])
def test_a_file_holds_what_was_written_wherever_it_goes_on(tmp_path: Path, size: int, offset: int) -> None:
    content = some_bytes(size)
    fill(tmp_path / "file", content, offset)
    assert (tmp_path / "file").read_bytes() == content


def test_what_fills_no_block_is_there_after_a_flush(tmp_path: Path) -> None:
    content = some_bytes(2 * BLOCK + 1000)
    file = BlockFile(tmp_path / "file", offset=0)
    file.write(content)
    assert (tmp_path / "file").read_bytes() == content[: 2 * BLOCK]
    file.flush()
    assert (tmp_path / "file").read_bytes() == content
    file.close()


def test_where_the_cache_cannot_be_passed_all_goes_through_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a file system that refuses such writes: these lie where none takes them."""
    monkeypatch.setattr(block_file, "_ALIGNMENT", 1)
    content = some_bytes(6 * BLOCK + 1)
    fill(tmp_path / "file", content, 100)
    assert (tmp_path / "file").read_bytes() == content
