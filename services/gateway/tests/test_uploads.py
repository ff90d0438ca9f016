"""Uploads, from clients that may stop in the middle."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import BytesValue
from prometheus_client import CollectorRegistry
from qonduit_api.v1 import jobs_pb2
from qonduit_gateway.api import uploads
from qonduit_service_kit.chunks import ChunkCodec
from qonduit_service_kit.rpc import GrpcServer, channel, from_rpc_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


async def take(requests: AsyncIterator[jobs_pb2.UploadArgumentsRequest | memoryview], _context: object) -> BytesValue:
    header = await uploads.header_of(requests)
    chunks = [chunk async for chunk in uploads.chunks_of(requests, header.size_bytes)]
    return BytesValue(value=b"".join(chunks))


def register(server: grpc.aio.Server) -> None:
    method = grpc.stream_unary_rpc_method_handler(
        take,
        request_deserializer=ChunkCodec(jobs_pb2.UploadArgumentsRequest).read,
        response_serializer=BytesValue.SerializeToString,
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("demo.Uploads", {"Take": method}),))


@pytest.mark.parametrize(("chunks", "idle"), [(0, True), (1, True), (3, False)])
async def test_an_upload_that_is_left_in_the_middle_is_ended(
    chunks: int, *, idle: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if idle:
        monkeypatch.setattr(uploads, "IDLE_LIMIT_S", 0.2)
    server = GrpcServer(register, services=["demo.Uploads"], registry=CollectorRegistry())
    await server.start()

    async def requests() -> AsyncIterator[jobs_pb2.UploadArgumentsRequest]:
        header = jobs_pb2.UploadArgumentsHeader(digest="d", size_bytes=3)
        yield jobs_pb2.UploadArgumentsRequest(header=header)
        for _ in range(chunks):
            yield jobs_pb2.UploadArgumentsRequest(chunk=b"x")
        if idle:
            await asyncio.Event().wait()

    async with asyncio.timeout(60), channel(server.address) as client:
        call = client.stream_unary(
            "/demo.Uploads/Take",
            request_serializer=jobs_pb2.UploadArgumentsRequest.SerializeToString,
            response_deserializer=BytesValue.FromString,
        )(requests())
        if idle:
            with pytest.raises(grpc.RpcError) as caught:
                await call
            assert from_rpc_error(caught.value).reason == "UPLOAD_IDLE"
        else:
            assert (await call).value == b"xxx"
    await server.stop()
