from __future__ import annotations

import asyncio
import socket
from contextlib import closing
from typing import Any

import grpc
import grpc.aio
import pytest
from qonduit_api.internal.v1 import storage_pb2, storage_pb2_grpc
from qonduit_gateway.lately_stored import LatelyStored
from qonduit_gateway.storage_client import StorageClient
from qonduit_service_kit.errors import ApiError
from qonduit_service_kit.tickets import TicketSigner


async def test_an_upload_that_ended_before_it_was_sent_says_that_storage_is_away() -> None:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{probe.getsockname()[1]}"
        client = StorageClient(nobody, TicketSigner(b"k" * 32))
        await client.start()
        upload = client.open_blob("0" * 64, 4)
        async with asyncio.timeout(30):
            assert await upload._call.code() == grpc.StatusCode.UNAVAILABLE
        assert not await upload.send(b"1234")
        with pytest.raises(ApiError) as caught:
            await upload.finish()
        await client.stop()
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE")


DIGEST = "d" * 64


class Blobs(storage_pb2_grpc.BlobServiceServicer):  # type: ignore[misc,unused-ignore]
    """Notes what it is asked to store."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.refuses_with: grpc.StatusCode | None = None

    async def PutSmallBlob(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.asked.append(request.content)
        if self.refuses_with is not None:
            await context.abort(self.refuses_with, "away")
        return storage_pb2.PutSmallBlobResponse(created=True)

    async def GetSmallBlob(self, request: Any, context: Any) -> Any:  # noqa: N802
        if request.digest != DIGEST:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown")
        return storage_pb2.GetSmallBlobResponse(content=b"at once")

    async def GetBlob(self, request: Any, context: Any) -> Any:  # noqa: N802
        del request, context
        yield storage_pb2.GetBlobResponse(chunk=b"piece ")
        yield storage_pb2.GetBlobResponse(chunk=b"by piece")


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED]
)
async def test_what_was_just_stored_is_not_sent_again_and_what_was_not_is(code: grpc.StatusCode) -> None:
    blobs, server = Blobs(), grpc.aio.server()
    storage_pb2_grpc.add_BlobServiceServicer_to_server(blobs, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    client = StorageClient(f"127.0.0.1:{port}", TicketSigner(b"k" * 32), remember_s=3600)
    await client.start()
    try:
        blobs.refuses_with = code
        with pytest.raises(ApiError) as caught:
            await client.put_bytes(b"{}")
        assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE")
        blobs.refuses_with = None
        assert await client.put_bytes(b"{}") == await client.put_bytes(b"{}")
        await client.put_bytes(b'{"other": 1}')
        assert blobs.asked == [b"{}", b"{}", b'{"other": 1}']
    finally:
        await client.stop()
        await server.stop(None)


def test_a_blob_counts_as_stored_for_its_time_from_when_storage_was_asked() -> None:
    now = 100.0
    lately = LatelyStored(60.0, clock=lambda: now)
    asked_at = lately.now()
    now = 130.0  # Storage took its time.
    lately.add("a", asked_at)
    assert "a" in lately
    assert "b" not in lately
    now = 159.9
    assert "a" in lately
    now = 160.0
    assert "a" not in lately


def test_of_many_blobs_the_newest_are_remembered() -> None:
    lately = LatelyStored(60.0)
    for number in range(5000):
        lately.add(str(number), lately.now())
    assert "4999" in lately
    assert "0" not in lately


async def test_what_is_known_to_be_small_comes_in_one_message_and_all_else_in_pieces() -> None:
    server = grpc.aio.server()
    storage_pb2_grpc.add_BlobServiceServicer_to_server(Blobs(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    client = StorageClient(f"127.0.0.1:{port}", TicketSigner(b"k" * 32))
    await client.start()
    try:
        for size, content in ((None, [b"piece ", b"by piece"]), (2**20, [b"piece ", b"by piece"]), (7, [b"at once"])):
            assert [chunk async for chunk in client.blob(DIGEST, size)] == content
        with pytest.raises(ApiError):
            await anext(client.blob("0" * 64, 7))
    finally:
        await client.stop()
        await server.stop(None)
