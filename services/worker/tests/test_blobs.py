"""Blobs of one machine: what is kept, for how long, and what goes to storage."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from blob_world import HOME, World, digest_of
from qonduit_api.internal.v1 import storage_pb2, storage_pb2_grpc
from qonduit_worker.blobs import BlobCache
from qonduit_worker.program_channel import RequestError
from qonduit_worker.storage import Storage, StorageError
from qonduit_worker.uploads import Upload

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

KIB = 1024


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def fill(world: World, kibibytes: int) -> None:
    """Have another job store so much."""
    for at in range(kibibytes):
        await world.blobs(job_id="next").put_local(bytes([at]) * KIB)


async def test_a_value_stays_on_its_machine_and_goes_with_the_last_who_holds_its_attempt(world: World) -> None:
    world.add_worker(HOME, capacity_bytes=2 * KIB)
    driver, executors = world.blobs(), [world.blobs(), world.blobs()]
    digest = await driver.put_local(b"a" * 500, memoryview(b"b" * 500))
    assert await executors[0].get(digest) == b"a" * 500 + b"b" * 500
    await driver.close()
    await executors[0].close()
    await executors[0].close()
    assert await executors[1].get(digest) == b"a" * 500 + b"b" * 500
    await executors[1].close()
    assert world.files() == []
    assert world.storage.puts == world.storage.gets == []
    # The whole room is free again.
    await fill(world, 2)
    assert world.storage.puts == []


async def test_no_job_finds_the_values_of_another(world: World) -> None:
    world.add_worker(HOME)
    digest = await world.blobs().put_local(b"mine")
    with pytest.raises(StorageError) as refused:
        await world.blobs(job_id="other").get(digest)
    assert refused.value.reason == "BLOB_NOT_FOUND"


async def test_what_an_earlier_life_left_is_removed(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.add_worker(HOME)
    await world.blobs().put_local(b"of an attempt that dies with its worker")
    world.caches[HOME].new_part().write_bytes(b"half")
    cached = tmp_path / "cached"
    cached.write_bytes(b"cached")
    world.caches[HOME].adopt(cached, digest_of(b"cached"))
    assert len(world.files()) == 3
    BlobCache(tmp_path / HOME, capacity_bytes=KIB)
    assert world.files() == [digest_of(b"cached")]


async def test_several_who_fetch_a_blob_share_one_transfer(world: World) -> None:
    world.add_worker(HOME)
    digest = digest_of(b"artifact")
    world.storage.blobs[digest] = b"artifact"
    found = await asyncio.gather(*(world.blobs(job_id=f"job-{at}").get(digest) for at in range(8)))
    assert set(found) == {b"artifact"}
    assert world.storage.gets == [digest]


async def test_several_who_share_a_blob_share_one_upload_and_later_ones_none(world: World) -> None:
    world.add_worker(HOME)
    blobs = world.blobs()
    name = await blobs.put_local(b"value")
    digest = digest_of(b"value")
    assert set(await asyncio.gather(*(blobs.share(name) for _ in range(8)))) == {digest}
    assert await blobs.share(name) == digest
    assert world.storage.puts == [digest]
    assert await blobs.get(name) == b"value"
    await blobs.close()
    assert world.files() == [digest]  # In the cache now, for whoever wants it next.


async def test_eviction_takes_what_was_used_least_and_never_what_is_pinned_or_nowhere_else(world: World) -> None:
    cache = world.add_worker(HOME, capacity_bytes=10 * KIB)
    contents = {digest_of(bytes([at]) * KIB): bytes([at]) * KIB for at in range(6)}
    world.storage.blobs.update(contents)
    first, second, *_, last = contents
    blobs = world.blobs()
    local = await blobs.put_local(b"l" * 2 * KIB)
    with cache.pinned(first):
        for digest in contents:
            await blobs.get(digest)
        await blobs.put_local(b"m" * 5 * KIB)
        assert {first, last, local} <= set(world.files())
        assert second not in world.files()
    assert await blobs.get(local) == b"l" * 2 * KIB
    assert await blobs.get(second) == contents[second]


async def test_what_nobody_used_for_long_goes_and_what_is_in_use_or_nowhere_else_stays(world: World) -> None:
    cache = world.add_worker(HOME, capacity_bytes=10 * KIB)
    contents = {digest_of(bytes([at]) * KIB): bytes([at]) * KIB for at in range(4)}
    world.storage.blobs.update(contents)
    unused, read_since, pinned, brought_since = contents
    blobs = world.blobs()
    local = await blobs.put_local(b"l" * KIB)
    for digest in (unused, read_since, pinned):
        await blobs.get(digest)
    for name in world.files():
        (path,) = (world.folder / HOME).rglob(name)
        os.utime(path, (0, 0))
    for digest in (read_since, brought_since):
        await blobs.get(digest)
    with cache.pinned(pinned):
        await cache.remove_unused(3600)
    assert set(world.files()) == {local, read_since, pinned, brought_since}
    assert await blobs.get(local) == b"l" * KIB
    assert await blobs.get(unused) == contents[unused], "it can be brought again"
    await blobs.close()
    # What it took is free again.
    await cache.remove_unused(-1)
    await fill(world, 10)
    assert world.storage.puts == []


async def test_a_local_value_that_was_made_long_ago_is_new_to_the_cache(world: World) -> None:
    cache = world.add_worker(HOME)
    blobs = world.blobs()
    name = await blobs.put_local(b"value")
    (path,) = (world.folder / HOME).rglob(name)
    os.utime(path, (0, 0))
    digest = await blobs.share(name)
    await cache.remove_unused(3600)
    assert world.files() == [digest]


async def test_a_file_that_is_open_is_read_to_its_end_though_it_is_evicted(world: World) -> None:
    world.add_worker(HOME, capacity_bytes=4 * KIB)
    blobs = world.blobs()
    digest = await blobs.share(name := await blobs.put_local(b"x" * 2 * KIB))
    with os.fdopen(await blobs.open(name), "rb") as file:
        await fill(world, 4)
        assert digest not in world.files()
        assert file.read() == b"x" * 2 * KIB


async def test_a_job_may_make_more_than_the_machine_holds(world: World) -> None:
    world.add_worker(HOME, capacity_bytes=4 * KIB)
    blobs = world.blobs()
    values = [bytes([at]) * KIB for at in range(12)]
    names = [await blobs.put_local(value) for value in values]
    assert world.storage.puts == [digest_of(value) for value in values[: len(world.storage.puts)]]  # The oldest ones.
    assert len(world.storage.puts) >= len(values) - 4
    assert [await blobs.get(name) for name in names] == values


async def test_what_can_never_fit_and_what_does_not_fit_now_are_told_with_numbers(world: World) -> None:
    world.add_worker(HOME, capacity_bytes=4 * KIB)
    blobs = world.blobs()
    with pytest.raises(StorageError, match=r"3,000 bytes .* 2,048 bytes") as refused:
        await blobs.put_local(b"z" * 3000)
    assert refused.value.reason == "BLOB_TOO_LARGE"
    uploads = [await blobs.begin(2 * KIB)]
    with pytest.raises(StorageError, match="1,024 bytes beside 2,048 bytes") as refused:
        await blobs.put_local(b"z" * KIB)
    assert refused.value.reason == "CACHE_FULL"
    uploads.append(await world.blobs(job_id="other").begin(2 * KIB))
    with pytest.raises(StorageError, match=r"1,024 bytes: 4,096 of 4,096") as refused:
        await world.blobs(job_id="third").put_local(b"z" * KIB)
    assert refused.value.reason == "CACHE_FULL"
    for upload in uploads:
        upload.discard()
    await blobs.put_local(b"z" * 2 * KIB)


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "part"
    path.symlink_to("/dev/full")
    upload = Upload(path, 2**20)
    with pytest.raises(RequestError, match="disk is full") as refused:
        upload.add(bytes(2**20))
    assert refused.value.kind == "DISK_FULL"
    upload.discard()
    assert list(tmp_path.iterdir()) == []


async def test_the_same_bytes_stored_twice_take_their_room_once_and_stay_until_both_are_released(world: World) -> None:
    world.add_worker(HOME, capacity_bytes=4 * KIB)
    blobs = world.blobs()
    digest = await blobs.put_local(b"s" * KIB)
    assert await blobs.put_local(b"s" * KIB) == digest
    await fill(world, 3)
    assert world.storage.puts == []
    blobs.release(digest)
    assert await blobs.get(digest) == b"s" * KIB
    blobs.release(digest)
    assert digest not in world.files()
    with pytest.raises(StorageError, match=f"no blob {digest}"):
        await blobs.get(digest)
    await blobs.put_local(b"u" * KIB)
    assert world.storage.puts == []


async def test_an_attempt_that_ends_while_it_uploads_leaves_nothing(world: World) -> None:
    world.add_worker(HOME, capacity_bytes=2 * KIB)
    blobs = world.blobs()
    digest = await blobs.put_local(b"v" * KIB)
    world.storage.open.clear()
    sharing = asyncio.create_task(blobs.share(digest))
    await world.storage.reached.wait()
    await blobs.close()
    with pytest.raises(asyncio.CancelledError):
        await sharing
    assert world.files() == []
    world.storage.puts.clear()
    await fill(world, 2)
    assert world.storage.puts == []


class _Damaged(storage_pb2_grpc.BlobServiceServicer):
    async def GetBlob(  # noqa: N802 - gRPC's name.
        self, _: storage_pb2.GetBlobRequest, __: object
    ) -> AsyncIterator[storage_pb2.GetBlobResponse]:
        yield storage_pb2.GetBlobResponse(chunk=b"other bytes")


async def test_bytes_that_are_not_those_of_their_digest_are_refused(world: World) -> None:
    cache = world.add_worker(HOME)
    server = grpc.aio.server()
    storage_pb2_grpc.add_BlobServiceServicer_to_server(_Damaged(), server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        with pytest.raises(StorageError) as refused:
            await cache.fetch(Storage(channel, "ticket", patience_s=0), digest_of(b"bytes"))
    await server.stop(None)
    assert refused.value.reason == "BLOB_DAMAGED"
    assert world.files() == []


class _CutOff(storage_pb2_grpc.BlobServiceServicer):
    """Ends the first call as a service does that stops."""

    def __init__(self, code: grpc.StatusCode) -> None:
        self._code = code
        self.calls = 0

    async def GetBlob(  # noqa: N802 - gRPC's name.
        self, _: storage_pb2.GetBlobRequest, context: Any
    ) -> AsyncIterator[storage_pb2.GetBlobResponse]:
        self.calls += 1
        if self.calls == 1:
            await context.abort(self._code, "stopping")
        yield storage_pb2.GetBlobResponse(chunk=b"bytes")


CUT_OFF = [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL]
"""The last, without a reason, is what gRPC itself says of a call that ended under its write."""


@pytest.mark.parametrize("code", CUT_OFF)
async def test_a_call_that_storage_cuts_off_as_it_ends_is_made_again(world: World, code: grpc.StatusCode) -> None:
    cache = world.add_worker(HOME)
    service, server = _CutOff(code), grpc.aio.server()
    storage_pb2_grpc.add_BlobServiceServicer_to_server(service, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        path = await cache.fetch(Storage(channel, "ticket"), digest_of(b"bytes"))
    await server.stop(None)
    assert (path.read_bytes(), service.calls) == (b"bytes", 2)
