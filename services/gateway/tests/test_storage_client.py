from __future__ import annotations

import asyncio
import socket
from contextlib import closing

import grpc
import pytest
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
