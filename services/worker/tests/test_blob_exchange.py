"""Blobs between machines: whoever misses one asks the driver's worker, and each crosses once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from blob_world import HOME, World, digest_of
from qonduit_service_kit.messages import BlobReady, BlobWanted, worker
from qonduit_worker.storage import StorageError

if TYPE_CHECKING:
    from pathlib import Path

AWAY = "away"
ARGUMENT = digest_of(b"argument")


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    for name in (HOME, AWAY):
        made.add_worker(name)
    return made


async def test_a_blob_crosses_to_another_machine_once_for_all_its_executors(world: World) -> None:
    name = await world.blobs().put_local(b"argument")
    executors = [world.blobs(AWAY) for _ in range(4)]
    assert set(await asyncio.gather(*(executor.get(name) for executor in executors))) == {b"argument"}
    asked = len(world.bus.sent)
    assert await executors[0].get(name) == b"argument"
    assert len(world.bus.sent) == asked
    assert (world.storage.puts, world.storage.gets) == ([ARGUMENT], [ARGUMENT])


async def test_a_blob_that_was_evicted_elsewhere_is_brought_again_and_not_asked_for(world: World) -> None:
    executor = world.blobs(AWAY)
    name = await world.blobs().put_local(b"argument")
    await executor.get(name)
    asked = len(world.bus.sent)
    (world.folder / AWAY / ARGUMENT).unlink()
    assert await executor.get(name) == b"argument"
    assert (len(world.bus.sent), world.storage.gets) == (asked, [ARGUMENT] * 2)


async def test_an_executor_elsewhere_gets_what_had_to_go_to_storage_for_want_of_room(world: World) -> None:
    world.add_worker(HOME, capacity_bytes=16)
    driver = world.blobs()
    name = await driver.put_local(b"argument")
    await driver.put_local(b"other...")
    await driver.put_local(b"third...")
    assert world.storage.puts[0] == ARGUMENT
    assert await world.blobs(AWAY).get(name) == b"argument"
    assert world.storage.puts.count(ARGUMENT) == 1


async def test_a_blob_that_is_released_while_it_is_brought_arrives(world: World) -> None:
    driver = world.blobs()
    name = await driver.put_local(b"argument")
    world.storage.open.clear()
    getting = asyncio.create_task(world.blobs(AWAY).get(name))
    await world.storage.reached.wait()
    driver.release(name)
    world.storage.open.set()
    assert await getting == b"argument"
    assert await driver.get(name) == b"argument"


async def test_what_an_executor_elsewhere_makes_is_in_storage_before_anybody_is_told(world: World) -> None:
    executor = world.blobs(AWAY)
    digest = await executor.put_local(b"value")
    assert digest == digest_of(b"value")
    await executor.close()
    del world.bus.workers[worker(AWAY)]
    assert await world.blobs().get(digest) == b"value"


@pytest.mark.parametrize("kind", [BlobWanted, BlobReady])
async def test_a_question_or_an_answer_that_is_lost_is_repeated(tmp_path: Path, kind: type) -> None:
    world = World(tmp_path)
    for name in (HOME, AWAY):
        world.add_worker(name, ask_again_s=0.05)
    lost: list[object] = []

    def lose_the_first(message: object) -> bool:
        if isinstance(message, kind) and not lost:
            lost.append(message)
            return True
        return False

    world.bus.lose = lose_the_first
    name = await world.blobs().put_local(b"argument")
    assert await world.blobs(AWAY).get(name) == b"argument"
    assert lost
    assert world.storage.puts == [ARGUMENT]


async def test_a_slow_upload_is_waited_for_as_long_as_its_worker_says_that_it_goes_on(tmp_path: Path) -> None:
    world = World(tmp_path)
    for name in (HOME, AWAY):
        world.add_worker(name, ask_again_s=0.02)
    world.storage.open.clear()
    heard: list[object] = []

    def go_on_after_longer_than_its_patience(message: object) -> bool:
        heard.append(message)
        if len(heard) == 100:
            world.storage.open.set()
        return False

    world.bus.lose = go_on_after_longer_than_its_patience
    name = await world.blobs().put_local(b"argument")
    assert await world.blobs(AWAY).get(name) == b"argument"
    assert world.storage.puts == [ARGUMENT]


async def test_a_worker_that_is_gone_or_silent_is_an_error_that_says_so(tmp_path: Path) -> None:
    world = World(tmp_path)
    for name in (HOME, AWAY):
        world.add_worker(name, ask_again_s=0.05)
    name = await world.blobs().put_local(b"argument")
    executor = world.blobs(AWAY)
    world.bus.lose = lambda _: True
    with pytest.raises(StorageError, match="has not answered") as silent:
        await executor.get(name)
    del world.bus.workers[worker(HOME)]
    with pytest.raises(StorageError, match="only on worker home, which is gone") as gone:
        await executor.get(name)
    assert silent.value.reason == gone.value.reason == "BLOB_LOST"


async def test_a_worker_that_does_not_have_it_says_why(world: World) -> None:
    executor = world.blobs(AWAY)
    driver = world.blobs()
    with pytest.raises(StorageError, match="is on this worker"):
        await executor.get("local-999")
    name = await driver.put_local(b"argument")
    await driver.close()
    with pytest.raises(StorageError, match="attempt is over"):
        await executor.get(name)


async def test_a_late_answer_changes_nothing(world: World) -> None:
    world.exchanges[AWAY].take(BlobReady("job", 1, "local-1", ready=True, stored_as=ARGUMENT))
    with pytest.raises(StorageError, match="attempt is over"):
        await world.blobs(AWAY).get("local-1")
