"""A name stands for one content throughout an attempt, though different ones may have one hash."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest
from blob_world import HOME, World, digest_of
from qonduit_worker import blob_scope
from qonduit_worker.blob_names import is_digest, is_name, local_name, same_bytes, sha256_of
from qonduit_worker.storage import StorageError

if TYPE_CHECKING:
    from pathlib import Path

AWAY = "away"
KIB = 1024
MIB = 1024 * KIB


class Colliding:
    """A hash that is the same for every content, as somebody could forge it for two."""

    def update(self, data: bytes | memoryview, /) -> None:
        pass

    def hexdigest(self) -> str:
        return "0" * 32


class Comparing:
    """Holds up the thread that has compared two files until it may go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached = threading.Event()
        self.may_go_on = threading.Event()
        monkeypatch.setattr(blob_scope, "same_bytes", self._compare)

    def _compare(self, one: Path, other: Path) -> bool:
        same = same_bytes(one, other)
        self.reached.set()
        assert self.may_go_on.wait(60)
        return same

    async def compared(self) -> None:
        assert await asyncio.to_thread(self.reached.wait, 60)


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path, quick_hash=Colliding)
    for name in (HOME, AWAY):
        made.add_worker(name)
    return made


@pytest.mark.parametrize("size", [10, 3 * MIB], ids=["small", "large"])
async def test_two_contents_of_one_hash_are_two_blobs(world: World, size: int) -> None:
    driver, executor = world.blobs(), world.blobs(AWAY)
    values = [b"a" * size, b"a" * (size - 1) + b"b", b"a" * (size - 1)]
    names = [await driver.put_local(value) for value in values]
    assert [await driver.get(name) for name in names] == values
    assert await driver.put_local(values[-1]) == names[-1]  # The same bytes, of which there is one file.
    assert len(world.files()) == 3
    driver.release(names[0])
    assert [await executor.get(name) for name in names[1:]] == values[1:]
    assert set(world.storage.puts) == {digest_of(value) for value in values[1:]}


async def test_blobs_of_one_hash_are_released_in_any_order(world: World) -> None:
    driver = world.blobs()
    names = [await driver.put_local(value) for value in (b"first", b"other", b"third")]
    for name in reversed(names):
        driver.release(name)
    assert world.files() == []
    name = await driver.put_local(b"first")
    assert await driver.get(name) == b"first"


async def test_a_name_is_never_given_again(world: World) -> None:
    """A process may remember what a name stood for, after its blob is gone."""
    driver = world.blobs()
    gone = await driver.put_local(b"remembered")
    driver.release(gone)
    names = [await driver.put_local(value) for value in (b"another...", b"remembered")]
    assert len({gone, *names}) == 3
    with pytest.raises(StorageError, match=f"no blob {gone}"):
        await driver.get(gone)
    with pytest.raises(StorageError, match=f"no blob {gone}"):
        await world.blobs(AWAY).get(gone)


async def test_what_is_in_storage_is_not_taken_for_another_content(world: World) -> None:
    driver, executor = world.blobs(), world.blobs(AWAY)
    shared = await driver.put_local(b"shared")
    assert await executor.get(shared) == b"shared"
    other = await driver.put_local(b"others")
    evicted = await driver.put_local(b"shared")
    assert len({shared, other, evicted}) == 3
    assert [await executor.get(name) for name in (shared, other, evicted)] == [b"shared", b"others", b"shared"]


async def test_equal_contents_stored_at_the_same_time_are_one_blob_and_others_their_own(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.add_worker(HOME)
    driver = world.blobs()
    values = [bytes([at % 3]) * 2 * MIB for at in range(9)]
    names = await asyncio.gather(*map(driver.put_local, values))
    assert len(set(names)) == len(world.files()) == 3
    assert [await driver.get(name) for name in names] == values
    world.quick_hash = Colliding
    world.add_worker(AWAY)
    driver = world.blobs(AWAY, home=AWAY)
    names = await asyncio.gather(*map(driver.put_local, values))
    assert [await driver.get(name) for name in names] == values


async def test_a_value_that_was_shared_is_stored_and_brought_once_however_often_it_comes(tmp_path: Path) -> None:
    world = World(tmp_path)
    for worker in (HOME, AWAY):
        world.add_worker(worker)
    driver, executor = world.blobs(), world.blobs(AWAY)
    for _ in range(3):
        name = await driver.put_local(b"argument")
        assert await executor.get(name) == b"argument"
        driver.release(name)
    assert world.storage.puts == world.storage.gets == [digest_of(b"argument")]
    (world.folder / HOME / digest_of(b"argument")).unlink()
    again = await driver.put_local(b"argument")  # With what can it be compared?
    assert again != name
    assert await executor.get(again) == await driver.get(name) == b"argument"


@pytest.mark.parametrize("letter", [b"o", b"n"], ids=["equal", "another"])
async def test_a_blob_that_is_deleted_while_another_is_compared_with_it(
    world: World, monkeypatch: pytest.MonkeyPatch, letter: bytes
) -> None:
    driver = world.blobs()
    old, new = b"o" * 2 * MIB, letter * 2 * MIB
    gone = await driver.put_local(old)
    comparing = Comparing(monkeypatch)
    storing = asyncio.create_task(driver.put_local(new))
    await comparing.compared()
    driver.release(gone)
    comparing.may_go_on.set()
    name = await storing
    assert name != gone
    assert await driver.get(name) == new
    assert len(world.files()) == 1


async def test_an_attempt_that_ends_while_a_value_is_compared_leaves_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = world.add_worker(HOME, capacity_bytes=4 * MIB)
    driver = world.blobs()
    await driver.put_local(b"v" * 2 * MIB)
    comparing = Comparing(monkeypatch)
    storing = asyncio.create_task(driver.put_local(b"v" * 2 * MIB))
    await comparing.compared()
    await driver.close()
    comparing.may_go_on.set()
    with pytest.raises(StorageError, match="attempt is over"):
        await storing
    assert world.files() == []
    await cache.reserve(4 * MIB)  # All of its room is free again.


def test_names_are_told_apart() -> None:
    assert is_digest("0" * 64)
    assert is_name("0" * 64)
    assert is_name(local_name(1))
    assert is_name(local_name(10**17))
    assert not is_digest(local_name(1))
    for text in ("", "0" * 32, "0" * 65, "F" * 64, "local-", "local-0", "local-01", "local-1\n", "local-x", "1"):
        assert not is_name(text)


def test_files_are_compared_to_their_last_byte(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(bytes(MIB))
    for data in (bytes(MIB - 1) + b"x", bytes(MIB - 1), bytes(MIB + 1)):
        other.write_bytes(data)
        assert not same_bytes(one, other)
    other.write_bytes(bytes(MIB))
    assert same_bytes(one, other)
    assert sha256_of(other) == digest_of(bytes(MIB))
    other.unlink()
    assert not same_bytes(one, other)
