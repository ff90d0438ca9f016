"""How much a space may hold: said before the bytes are sent, and never exceeded."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc import StatusCode
from qonduit_api.internal.v1 import storage_pb2 as pb
from qonduit_service_kit.rpc import from_rpc_error

if TYPE_CHECKING:
    from collections.abc import Callable

SPACE = "users/ada"
TAR_BYTES = 10_240
"""Of a small archive: tarfile fills its records up."""


async def limited(storage: Any, limit_bytes: int) -> Any:
    return await storage.client(read_space=SPACE, write_space=SPACE, write_limit_bytes=limit_bytes)


async def usage(client: Any) -> pb.GetSpaceUsageResponse:
    answer: pb.GetSpaceUsageResponse = await client.spaces.GetSpaceUsage(pb.GetSpaceUsageRequest(space=SPACE))
    return answer


async def test_what_does_not_fit_is_refused_with_the_numbers_before_it_is_sent(
    storage: Any, make_tar: Callable[..., bytes]
) -> None:
    client = await limited(storage, 2 * TAR_BYTES)
    await client.put_file("a.tar", make_tar(b"a"))
    call = client.spaces.PutFile()
    header = pb.PutFileHeader(space=SPACE, name="big.tar", size_bytes=1_000_000, digest="0" * 64)
    await call.write(pb.PutFileRequest(header=header))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # No chunk was sent, and none is waited for.
    asked = pb.StatUploadRequest(space=SPACE, name="big.tar", size_bytes=1_000_000, digest="0" * 64)
    with pytest.raises(grpc.aio.AioRpcError) as told:
        await client.spaces.StatUpload(asked)
    error = from_rpc_error(caught.value)
    assert from_rpc_error(told.value).text == error.text
    assert (error.code, error.reason) == (StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
    assert "'big.tar' needs 1,000,000 bytes, and 10,240 are left in this space. Its limit is 20,480," in error.text
    assert error.metadata["limit_bytes"] == "20480"
    assert error.metadata["used_bytes"] == "10240"
    assert await client.names() == ["a.tar"]


async def test_deleting_and_replacing_give_room_again(
    storage: Any, make_tar: Callable[..., bytes], must_refuse: Callable[..., Any]
) -> None:
    client = await limited(storage, 2 * TAR_BYTES)
    await client.put_file("a.tar", make_tar(b"a"))
    await client.put_file("b.tar", make_tar(b"b"))
    await client.put_file("b.tar", make_tar(b"other"))  # In the place of the first one.
    async with must_refuse(StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED"):
        await client.put_file("c.tar", make_tar(b"c"))
    async with must_refuse(
        StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED", "'b.tar' is to grow by 10,240 bytes, and 0"
    ):
        await client.put_file("b.tar", make_tar(b"b" * TAR_BYTES))
    await client.spaces.DeleteSpaceFile(pb.DeleteSpaceFileRequest(space=SPACE, name="a.tar"))
    await client.put_file("c.tar", make_tar(b"c"))
    told = await usage(client)
    assert (told.file_count, told.used_bytes, told.limit_bytes) == (2, 2 * TAR_BYTES, 2 * TAR_BYTES)


async def test_many_uploads_at_once_stay_within_the_limit_together(
    storage: Any, make_tar: Callable[..., bytes]
) -> None:
    client = await limited(storage, 5 * TAR_BYTES)
    puts = [client.put_file(f"{number}.tar", make_tar(str(number).encode())) for number in range(20)]
    answers = await asyncio.gather(*puts, return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    assert {from_rpc_error(error).reason for error in refused} == {"QUOTA_EXCEEDED"}
    assert (await usage(client)).used_bytes <= 5 * TAR_BYTES
    kept = await client.names()
    assert len(kept) == 20 - len(refused) > 0
    # What was refused left no promise behind.
    for name in kept:
        await client.spaces.DeleteSpaceFile(pb.DeleteSpaceFileRequest(space=SPACE, name=name))
    await client.put_file("whole.tar", make_tar(b"w" * 4 * TAR_BYTES))


async def test_usage_is_known_after_a_restart_and_where_a_limit_was_lowered(
    make_storage: Callable[..., Any], make_tar: Callable[..., bytes], must_refuse: Callable[..., Any]
) -> None:
    first = await make_storage()
    client = await first.client()
    await client.put_file("a.tar", make_tar(b"a" * 50_000))
    before = (await usage(client)).used_bytes
    await first.stop()
    client = await limited(await make_storage(), TAR_BYTES)
    assert (await usage(client)).used_bytes == before > TAR_BYTES
    async with must_refuse(StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED", "0 are left"):
        await client.put_file("b.tar", make_tar(b"b"))
    await client.put_file("a.tar", make_tar(b"a"))  # A smaller one leads back below it.
    assert (await usage(client)).used_bytes == TAR_BYTES


async def test_usage_is_told_to_nobody_else(storage: Any, must_refuse: Callable[..., Any]) -> None:
    other = await storage.client(read_space="users/bob", write_space="users/bob")
    async with must_refuse(StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED"):
        await usage(other)
