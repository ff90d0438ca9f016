"""Uploads that break off and go on where they stopped."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from typing import TYPE_CHECKING, Any

import pytest
from grpc import StatusCode
from qonduit_api.internal.v1 import storage_pb2 as pb
from qonduit_storage import partials

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("slow_senders")

SPACE = "users/ada"
CHUNK = 64 * 1024
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def content() -> bytes:
    """Bytes that no archive can make smaller."""
    return random.Random(5).randbytes(6 * MIB)  # noqa: S311 - No secret.


@pytest.fixture(autouse=True)
def a_busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service, which is in this process, has time to hear that a connection broke."""
    monkeypatch.setattr(partials, "_ENDING_S", 100.0)


def header(data: bytes, offset: int = 0, name: str = "big.tar") -> pb.PutFileHeader:
    digest = hashlib.sha256(data).hexdigest()
    return pb.PutFileHeader(space=SPACE, name=name, size_bytes=len(data), digest=digest, offset=offset)


async def received(client: Any, data: bytes, name: str = "big.tar") -> int:
    told = header(data, name=name)
    request = pb.StatUploadRequest(space=SPACE, name=name, size_bytes=told.size_bytes, digest=told.digest)
    return int((await client.spaces.StatUpload(request)).received_bytes)


async def begin(storage: Any, client: Any, data: bytes, *, at_least: int = 3 * MIB, name: str = "big.tar") -> Any:
    """An upload of which so much is on disk, and the rest is not sent."""
    call = client.spaces.PutFile()
    await call.write(pb.PutFileRequest(header=header(data, name=name)))
    for at in range(0, at_least + MIB, CHUNK):
        await call.write(pb.PutFileRequest(chunk=data[at : at + CHUNK]))
    async with asyncio.timeout(100):
        while sum(path.stat().st_size for path in storage.incoming()) < at_least:  # noqa: ASYNC110 - A file grows.
            await asyncio.sleep(0.01)  # A file grows; nothing can be awaited.
    return call


async def go_on(client: Any, data: bytes, offset: int) -> pb.SpaceFile:
    requests = [pb.PutFileRequest(header=header(data, offset))]
    requests += [pb.PutFileRequest(chunk=data[at : at + CHUNK]) for at in range(offset, len(data), CHUNK)]
    answer: pb.PutFileResponse = await client.spaces.PutFile(iter(requests))
    return answer.file


async def test_an_upload_goes_on_where_its_connection_broke(
    storage: Any, client: Any, make_tar: Callable[..., bytes], content: bytes
) -> None:
    data = make_tar(content)
    assert await received(client, data) == 0
    (await begin(storage, client, data)).cancel()
    offset = await received(client, data)
    assert 3 * MIB <= offset < len(data)
    assert await client.names() == []
    assert (await go_on(client, data, offset)).size_bytes == len(data)
    assert (await client.get_file("big.tar"))[1] == data
    assert await received(client, data) == 0
    assert not storage.incoming()


async def test_an_upload_that_ends_early_goes_on(
    client: Any, make_tar: Callable[..., bytes], content: bytes, must_refuse: Callable[..., Any]
) -> None:
    """A connection that breaks may look like the end of a stream."""
    data = make_tar(content)
    requests = [pb.PutFileRequest(header=header(data))]
    requests += [pb.PutFileRequest(chunk=data[at : at + CHUNK]) for at in range(0, 3 * MIB, CHUNK)]
    async with must_refuse(StatusCode.INVALID_ARGUMENT, "DIGEST_MISMATCH"):
        await client.spaces.PutFile(iter(requests))
    assert await received(client, data) == 3 * MIB
    await go_on(client, data, 3 * MIB)
    assert (await client.get_file("big.tar"))[1] == data


async def test_it_goes_on_after_the_service_was_killed(
    own_process: Any, make_tar: Callable[..., bytes], content: bytes
) -> None:
    data = make_tar(content)
    await own_process.start()
    await begin(own_process, await own_process.client(), data)
    own_process.kill()
    await own_process.disconnect()
    await own_process.start()
    client = await own_process.client()
    assert not own_process.incoming()
    offset = await received(client, data)
    assert offset >= 3 * MIB
    await go_on(client, data, offset)
    assert (await client.get_file("big.tar"))[1] == data


async def test_what_was_kept_is_checked_again(
    storage: Any, client: Any, make_tar: Callable[..., bytes], content: bytes, must_refuse: Callable[..., Any]
) -> None:
    data = make_tar(content)
    (await begin(storage, client, data)).cancel()
    offset = await received(client, data)
    (part,) = (storage.data / "partial").iterdir()
    with part.open("r+b") as file:
        file.seek(2 * MIB)
        file.write(b"what a power cut left")
    async with must_refuse(StatusCode.INVALID_ARGUMENT, "DIGEST_MISMATCH"):
        await go_on(client, data, offset)
    assert await received(client, data) == 0
    await go_on(client, data, 0)
    assert (await client.get_file("big.tar"))[1] == data


async def test_one_only_can_go_on_and_another_is_told_to_ask_again(
    storage: Any, client: Any, make_tar: Callable[..., bytes], content: bytes, must_refuse: Callable[..., Any]
) -> None:
    data = make_tar(content)
    (await begin(storage, client, data)).cancel()
    offset = await received(client, data)
    await go_on(client, data, offset)
    async with must_refuse(StatusCode.UNAVAILABLE, "UPLOAD_LOST", "Ask again"):
        await go_on(client, data, offset)


async def test_content_that_breaks_the_rules_cannot_slip_in_behind_an_offset(
    client: Any, content: bytes, must_refuse: Callable[..., Any]
) -> None:
    """The first half is checked when it comes; going on checks it once more, and the rest."""
    no_tar = bytes(3 * MIB + 512) + content
    call = client.spaces.PutFile()
    await call.write(pb.PutFileRequest(header=header(no_tar)))
    async with must_refuse(StatusCode.INVALID_ARGUMENT, "INVALID_FILE_CONTENT"):
        for at in range(0, len(no_tar), CHUNK):
            await call.write(pb.PutFileRequest(chunk=no_tar[at : at + CHUNK]))
        await call.done_writing()
        await call
    assert await received(client, no_tar) == 0


async def test_another_user_cannot_go_on_with_it_nor_see_it(
    storage: Any, client: Any, make_tar: Callable[..., bytes], content: bytes, must_refuse: Callable[..., Any]
) -> None:
    data = make_tar(content)
    (await begin(storage, client, data)).cancel()
    assert await received(client, data)
    other = await storage.client(read_space="users/bob", write_space="users/bob")
    async with must_refuse(StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED"):
        await received(other, data)
    digest = hashlib.sha256(data).hexdigest()
    request = pb.StatUploadRequest(space="users/bob", name="big.tar", size_bytes=len(data), digest=digest)
    assert (await other.spaces.StatUpload(request)).received_bytes == 0


async def test_few_are_kept_and_not_for_ever(
    make_storage: Callable[..., Any], make_tar: Callable[..., bytes], content: bytes
) -> None:
    first = await make_storage()
    client = await first.client()
    data = make_tar(content)
    for number in range(6):
        (await begin(first, client, data, name=f"{number}.tar")).cancel()
        assert await received(client, data, f"{number}.tar")
    assert len(parts_of(first)) == 4
    assert await received(client, data, "0.tar") == 0
    assert await received(client, data, "5.tar")
    await first.stop()
    for path in parts_of(first)[:2]:
        os.utime(path, (0, 0))
    second = await make_storage()
    assert len(parts_of(second)) == 2


def parts_of(storage: Any) -> list[Path]:
    return list((storage.data / "partial").iterdir())
