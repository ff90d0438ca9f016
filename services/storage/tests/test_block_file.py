"""Files that are written past the page cache."""

from __future__ import annotations

import errno
import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from qonduit_storage import block_file
from qonduit_storage.block_file import BlockFile

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from concurrent.futures import Executor, Future
    from pathlib import Path

BLOCK = 64 * 1024
PATIENCE_S = 10


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


@pytest.fixture
def writers() -> Iterator[Executor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def fill(path: Path, content: bytes, offset: int, writers: Executor) -> None:
    """Go on at an offset with what is missing."""
    if offset:
        path.write_bytes(content[:offset] + b"what came after it")
    file = BlockFile(path, writers=writers, offset=offset)
    assert b"".join(iter(lambda: file.read(BLOCK), b"")) == content[:offset]
    write_pieces(file, content[offset:])
    file.sync()
    file.close()


@pytest.mark.parametrize("offset", [0, 100, 4096, BLOCK - 1, BLOCK, BLOCK + 4096, 5 * BLOCK + 1])
@pytest.mark.parametrize("size", [6 * BLOCK, 6 * BLOCK + 1, 10 * BLOCK + 4097])
def test_a_file_holds_what_was_written_wherever_it_goes_on(
    tmp_path: Path, size: int, offset: int, writers: Executor
) -> None:
    content = some_bytes(size)
    fill(tmp_path / "file", content, offset, writers)
    assert (tmp_path / "file").read_bytes() == content


def test_what_fills_no_block_is_there_after_a_flush(tmp_path: Path, writers: Executor) -> None:
    content = some_bytes(2 * BLOCK + 1000)
    file = BlockFile(tmp_path / "file", writers=writers, offset=0)
    file.write(content)
    file.flush()
    assert (tmp_path / "file").read_bytes() == content
    file.close()


def test_a_block_that_cannot_be_written_is_told_and_nothing_is_written_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writers: Executor
) -> None:
    content = some_bytes(10 * BLOCK + 1000)  # More than can wait to be written.
    write = os.write

    def full_after_one(number: int, left: memoryview) -> int:
        if os.fstat(number).st_size >= BLOCK:
            raise OSError(errno.ENOSPC, "no space left")
        return write(number, left)

    monkeypatch.setattr(os, "write", full_after_one)
    file = BlockFile(tmp_path / "file", writers=writers, offset=0)
    with pytest.raises(OSError, match="no space left"):
        file.write(content)
    monkeypatch.setattr(os, "write", write)  # There is room again, too late.
    with pytest.raises(OSError, match="no space left"):
        file.flush()
    file.close()
    assert (tmp_path / "file").read_bytes() == content[:BLOCK]


def test_files_take_turns_with_a_writer_each_with_its_blocks_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writers: Executor
) -> None:
    gate, written = threading.Event(), list[str]()
    write = os.write

    def once_all_wait(number: int, left: memoryview) -> int:
        assert gate.wait(PATIENCE_S)
        written.append(bytes(left[:2]).decode())
        return write(number, left)

    monkeypatch.setattr(os, "write", once_all_wait)
    monkeypatch.setattr(block_file, "_TURN_BLOCKS", 1)
    one, other = (BlockFile(tmp_path / name, writers=writers, offset=0) for name in "ab")
    one.write(b"".join(name * (BLOCK // 2) for name in (b"a1", b"a2", b"a3")))
    other.write(b"b1" * (BLOCK // 2))
    gate.set()
    for file in (one, other):
        file.sync()
        file.close()
    assert written == ["a1", "b1", "a2", "a3"]


def test_a_file_is_closed_once_its_block_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writers: Executor
) -> None:
    closing = threading.Event()
    write, wait = os.write, block_file.wait

    def write_once_it_is_being_closed(number: int, left: memoryview) -> int:
        closing.wait(PATIENCE_S)
        return write(number, left)

    def wait_and_tell(writing: Iterable[Future[None]]) -> object:
        closing.set()
        return wait(writing)

    monkeypatch.setattr(os, "write", write_once_it_is_being_closed)
    monkeypatch.setattr(block_file, "wait", wait_and_tell)
    file = BlockFile(tmp_path / "file", writers=writers, offset=0)
    content = some_bytes(BLOCK)
    file.write(content)
    file.close()
    assert (tmp_path / "file").read_bytes() == content


def test_where_the_cache_cannot_be_passed_all_goes_through_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writers: Executor
) -> None:
    """As on a file system that refuses such writes: these lie where none takes them."""
    monkeypatch.setattr(block_file, "_ALIGNMENT", 1)
    content = some_bytes(6 * BLOCK + 1)
    fill(tmp_path / "file", content, 100, writers)
    assert (tmp_path / "file").read_bytes() == content
