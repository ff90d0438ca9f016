"""Blobs over gRPC."""

# ruff: noqa: S311 - Random bytes are content here, and the same in each run.

from __future__ import annotations

import asyncio
import hashlib
import random
from typing import TYPE_CHECKING, Any

import pytest
from grpc import StatusCode
from qonduit_api.internal.v1 import storage_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

DATA = random.Random(5).randbytes(3_000_000)
DIGEST = hashlib.sha256(DATA).hexdigest()


def stored(kept: Any) -> list[str]:
    return kept.keys("blobs")  # type: ignore[no-any-return]


@pytest.mark.parametrize("size", [0, 1, 64 * 1024, 3_000_000])
async def test_what_goes_in_comes_out(client: Any, size: int) -> None:
    answer = await client.put_blob(DATA[:size])
    assert (answer.size_bytes, answer.created) == (size, True)
    assert await client.get_blob(answer.digest) == DATA[:size]


async def test_a_small_blob_comes_in_one_message(kept: Any, client: Any, must_refuse: Callable[..., Any]) -> None:
    content = DATA[:1000]
    digest = hashlib.sha256(content).hexdigest()
    async with must_refuse(StatusCode.INVALID_ARGUMENT, "DIGEST_MISMATCH", "sha256"):
        await client.blobs.PutSmallBlob(pb.PutSmallBlobRequest(digest=DIGEST, content=content))
    assert stored(kept) == []
    for created in (True, False):
        answer = await client.blobs.PutSmallBlob(pb.PutSmallBlobRequest(digest=digest, content=content))
        assert answer.created == created
    assert await client.get_blob(digest) == content
    assert (await client.blobs.GetSmallBlob(pb.GetSmallBlobRequest(digest=digest))).content == content


async def test_what_does_not_fit_into_one_message_is_streamed(client: Any, must_refuse: Callable[..., Any]) -> None:
    await client.put_blob(DATA)
    async with must_refuse(StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "Stream it"):
        await client.blobs.GetSmallBlob(pb.GetSmallBlobRequest(digest=DIGEST))
    async with must_refuse(StatusCode.NOT_FOUND, "BLOB_NOT_FOUND", "no blob"):
        await client.blobs.GetSmallBlob(pb.GetSmallBlobRequest(digest="0" * 64))


async def test_reading_goes_on_from_an_offset(client: Any, must_refuse: Callable[..., Any]) -> None:
    await client.put_blob(DATA)
    for offset in (1, 1024**2, 1024**2 + 1, len(DATA)):
        assert await client.get_blob(DIGEST, offset) == DATA[offset:]
    async with must_refuse(StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "outside"):
        await client.get_blob(DIGEST, len(DATA) + 1)


async def test_a_blob_that_is_there_is_not_sent_again(client: Any) -> None:
    assert (await client.put_blob(DATA)).created
    sent = 0

    async def endless() -> AsyncIterator[pb.PutBlobRequest]:
        nonlocal sent
        yield pb.PutBlobRequest(header=pb.PutBlobHeader(digest=DIGEST, size_bytes=len(DATA)))
        await never
        sent += 1

    never = asyncio.get_running_loop().create_future()
    answer = await client.blobs.PutBlob(endless())
    assert (answer.created, sent) == (False, 0)


async def test_stat_tells_what_is_there(client: Any) -> None:
    await client.put_blob(DATA)
    answer = await client.blobs.StatBlobs(pb.StatBlobsRequest(digests=[DIGEST, "0" * 64]))
    assert [(blob.digest, blob.size_bytes) for blob in answer.blobs] == [(DIGEST, len(DATA))]


async def test_many_uploads_of_the_same_bytes_at_once(storage: Any, kept: Any, client: Any) -> None:
    answers = await asyncio.gather(*(client.put_blob(DATA) for _ in range(10)))
    assert any(answer.created for answer in answers)
    assert await client.get_blob(DIGEST) == DATA
    assert len(stored(kept)) == 1
    assert storage.incoming() == []


@pytest.mark.usefixtures("slow_senders")
async def test_other_bytes_than_announced_are_refused(
    storage: Any, kept: Any, client: Any, must_refuse: Callable[..., Any]
) -> None:
    async with must_refuse(StatusCode.INVALID_ARGUMENT, "DIGEST_MISMATCH", "send them again"):
        await client.put_blob(DATA, digest="0" * 64)
    async with must_refuse(StatusCode.INVALID_ARGUMENT, "DIGEST_MISMATCH"):
        await client.put_blob(DATA, size=len(DATA) + 1)
    async with must_refuse(StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "More bytes"):
        await client.put_blob(DATA, size=len(DATA) - 1)
    async with must_refuse(StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "is no digest"):
        await client.put_blob(DATA, digest="../../etc/passwd")
    async with must_refuse(StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "header"):
        await client.blobs.PutBlob(iter([pb.PutBlobRequest(chunk=b"x")]))
    assert stored(kept) == []
    assert storage.incoming() == []


async def test_a_missing_blob(client: Any, must_refuse: Callable[..., Any]) -> None:
    async with must_refuse(StatusCode.NOT_FOUND, "BLOB_NOT_FOUND", "Store it again"):
        await client.get_blob(DIGEST)


async def test_damage_is_found_set_aside_and_healed(kept: Any, client: Any, must_refuse: Callable[..., Any]) -> None:
    await client.put_blob(DATA)
    (key,) = stored(kept)
    kept.write(key, DATA[:2_000_000] + bytes([DATA[2_000_000] ^ 1]) + DATA[2_000_001:])
    async with must_refuse(StatusCode.DATA_LOSS, "BLOB_DAMAGED", "damaged"):
        await client.get_blob(DIGEST)
    async with must_refuse(StatusCode.NOT_FOUND, "BLOB_NOT_FOUND"):
        await client.get_blob(DIGEST)
    assert len(kept.keys("quarantine")) == 1
    assert (await client.put_blob(DATA)).created
    assert await client.get_blob(DIGEST) == DATA


@pytest.mark.parametrize("kept", ["directory"], indirect=True)
async def test_what_comes_before_an_offset_is_verified_too(
    kept: Any, client: Any, must_refuse: Callable[..., Any]
) -> None:
    await client.put_blob(DATA)
    kept.write(stored(kept)[0], DATA[:2_000_000] + bytes([DATA[2_000_000] ^ 1]) + DATA[2_000_001:])
    async with must_refuse(StatusCode.DATA_LOSS, "BLOB_DAMAGED", "damaged"):
        await client.get_blob(DIGEST, 2_500_000)


async def test_a_client_that_goes_away_leaves_nothing(storage: Any, kept: Any, client: Any) -> None:
    arrived = asyncio.Event()

    async def half() -> AsyncIterator[pb.PutBlobRequest]:
        yield pb.PutBlobRequest(header=pb.PutBlobHeader(digest=DIGEST, size_bytes=len(DATA)))
        for start in range(0, 2_000_000, 500_000):
            yield pb.PutBlobRequest(chunk=DATA[start : start + 500_000])
        arrived.set()
        await asyncio.get_running_loop().create_future()

    call = client.blobs.PutBlob(half())
    await asyncio.wait_for(arrived.wait(), 60)
    call.cancel()
    async with asyncio.timeout(60):
        while storage.incoming():  # noqa: ASYNC110 - The handler ends after the call does, and tells nobody.
            await asyncio.sleep(0.01)
    await storage.stop()
    assert stored(kept) == []


async def test_an_upload_that_stops_sending_is_ended(
    make_storage: Callable[..., Any], must_refuse: Callable[..., Any]
) -> None:
    storage = await make_storage(upload_idle_s=0.05)
    client = await storage.client()

    async def stuck() -> AsyncIterator[pb.PutBlobRequest]:
        yield pb.PutBlobRequest(header=pb.PutBlobHeader(digest=DIGEST, size_bytes=len(DATA)))
        await asyncio.get_running_loop().create_future()

    async with must_refuse(StatusCode.DEADLINE_EXCEEDED, "UPLOAD_IDLE", "Send it again"):
        await client.blobs.PutBlob(stuck())
    assert storage.incoming() == []


@pytest.mark.usefixtures("slow_senders")
async def test_what_is_too_large_is_refused_before_it_is_sent(
    make_storage: Callable[..., Any], must_refuse: Callable[..., Any]
) -> None:
    client = await (await make_storage(max_blob_bytes=1000, max_file_bytes=1000)).client()
    async with must_refuse(StatusCode.INVALID_ARGUMENT, "TOO_LARGE", "up to 1,000"):
        await client.put_blob(DATA)
    async with must_refuse(StatusCode.INVALID_ARGUMENT, "TOO_LARGE", "up to 1,000"):
        await client.put_file("big.tar", DATA)


@pytest.mark.usefixtures("slow_senders")
async def test_an_early_answer_reaches_a_client_that_is_still_sending(
    client: Any, make_tar: Callable[..., bytes], must_refuse: Callable[..., Any]
) -> None:
    large = make_tar(DATA, DATA)
    for _ in range(5):
        async with must_refuse(StatusCode.INVALID_ARGUMENT, "INVALID_FILE_NAME"):
            await client.put_file("large.zip", large)
        async with must_refuse(StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED"):
            await client.put_file("large.tar", large, space="users/bob")
    answers = [await client.put_blob(DATA) for _ in range(5)]
    assert [answer.created for answer in answers] == [True] + [False] * 4
