"""Blobs and logs that nobody needs: what may be deleted, by whom, and when."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc import StatusCode
from qonduit_api.internal.v1 import storage_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable

HOUR_S = 3600.0
in_a_directory = pytest.mark.parametrize("kept", ["directory"], indirect=True)
"""Where a test needs old blobs: nobody can make an object in S3 older."""


@pytest.fixture
async def service(storage: Any) -> Any:
    """The gateway, as storage sees it."""
    return await storage.client(service="gateway")


def age(storage: Any, digest: str, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(storage.data / "blobs" / digest[:2] / digest, (then, then))


async def unused(service: Any, seconds: float) -> set[str]:
    found: set[str] = set()
    token = ""
    while True:
        page = await service.blobs.ListBlobs(pb.ListBlobsRequest(unused_seconds=seconds, page_token=token))
        found |= set(page.digests)
        token = page.next_page_token
        if not token:
            return found


async def delete(service: Any, *digests: str, unused_s: float = HOUR_S) -> list[str]:
    answer = await service.blobs.DeleteBlobs(pb.DeleteBlobsRequest(digests=digests, unused_seconds=unused_s))
    return list(answer.kept_digests)


@in_a_directory
async def test_only_what_nobody_touched_lately_is_deleted(storage: Any, service: Any) -> None:
    old, new = [(await service.put_blob(data)).digest for data in (b"old", b"new")]
    age(storage, old, 2 * HOUR_S)
    assert await unused(service, HOUR_S) == {old}
    assert await delete(service, old, new, "0" * 64) == [new]
    assert await service.get_blob(new) == b"new"
    stats = await service.blobs.StatBlobs(pb.StatBlobsRequest(digests=[old, new]))
    assert [blob.digest for blob in stats.blobs] == [new]


@in_a_directory
async def test_storing_it_again_or_asking_for_it_saves_it(storage: Any, service: Any) -> None:
    digests = [(await service.put_blob(data)).digest for data in (b"stored", b"asked", b"looked at")]
    for digest in digests:
        age(storage, digest, 2 * HOUR_S)
    assert not (await service.put_blob(b"stored")).created
    await service.blobs.StatBlobs(pb.StatBlobsRequest(digests=[digests[1]], touch=True))
    await service.blobs.StatBlobs(pb.StatBlobsRequest(digests=[digests[2]]))
    assert await unused(service, HOUR_S) == {digests[2]}
    assert await delete(service, *digests) == digests[:2]


@in_a_directory
async def test_a_reader_has_the_whole_of_what_is_deleted_meanwhile(storage: Any, service: Any) -> None:
    data = os.urandom(8 * 1024 * 1024)
    digest = (await service.put_blob(data)).digest
    age(storage, digest, 2 * HOUR_S)
    answers = aiter(service.blobs.GetBlob(pb.GetBlobRequest(digest=digest)))
    first = (await anext(answers)).chunk
    assert await delete(service, digest) == []
    rest = [answer.chunk async for answer in answers]
    assert first + b"".join(rest) == data


@in_a_directory
async def test_storing_and_deleting_at_once_never_loses_what_was_just_stored(storage: Any, service: Any) -> None:
    """Who stored it was told that it is there: then it is."""
    for number in range(100):
        data = f"value {number}".encode()
        digest = (await service.put_blob(data)).digest
        age(storage, digest, 2 * HOUR_S)
        await asyncio.gather(service.put_blob(data), delete(service, digest))
        assert await service.get_blob(digest) == data


@in_a_directory
async def test_a_deleted_log_is_empty_and_its_followers_end(storage: Any, client: Any, service: Any) -> None:
    await client.append((1, 0, b"hello\n"))
    following = client.read_log(follow=True)
    assert (await following.read()).chunk == b"hello\n"
    for _ in range(2):
        await service.logs.DeleteLog(pb.DeleteLogRequest(log="job-1"))
    assert await asyncio.wait_for(following.read(), 60) is grpc.aio.EOF
    assert await client.whole_log() == b""
    assert [path for path in (storage.data / "logs").rglob("*") if path.is_file()] == []


async def test_what_is_garbage_goes_and_what_was_stored_lately_stays(
    make_storage: Callable[..., Any], kept: Any
) -> None:
    service = await (await make_storage()).client(service="gateway")
    digest = (await service.put_blob(b"some")).digest
    assert await delete(service, digest) == [digest]
    assert await service.get_blob(digest) == b"some"
    await asyncio.sleep(0.05)  # The one thing that makes something older.
    assert digest in await unused(service, 0.01)
    assert await delete(service, digest, unused_s=0.01) == []
    assert [key for key in kept.keys("blobs") if digest in key] == []
    assert (await service.put_blob(b"some")).created


async def test_users_and_workers_collect_no_garbage(client: Any, must_refuse: Callable[..., Any]) -> None:
    digest = (await client.put_blob(b"mine")).digest
    for call in (
        lambda: unused(client, 0.0),
        lambda: delete(client, digest, unused_s=0.0),
        lambda: client.logs.DeleteLog(pb.DeleteLogRequest(log="job-1")),
    ):
        async with must_refuse(StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED"):
            await call()
    assert await client.get_blob(digest) == b"mine"
