"""Large bodies and results, in the storage service by digest."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from qonduit_api.internal.v1 import storage_pb2, storage_pb2_grpc
from qonduit_service_kit import rpc
from qonduit_service_kit.tickets import Ticket, TicketSigner

from qonduit_qpu_broker.problems import NotFound, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHUNK_BYTES = 1024**2
_TICKET_S = 300.0
_CALL_TIMEOUT_S = 120.0


class Payloads:
    """Bytes by digest; speaks to storage as a service, with a ticket that it signs itself."""

    def __init__(self, address: str, signer: TicketSigner, *, ca: Path | None = None) -> None:
        self._address = address
        self._signer = signer
        self._ca = ca
        self._channel: grpc.aio.Channel | None = None

    async def start(self) -> None:
        """Make the channel; it connects by itself when storage is there."""
        self._channel = rpc.channel(self._address, ca=self._ca)

    async def stop(self) -> None:
        """Close the channel; safe to call twice."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    async def put(self, data: bytes) -> str:
        """Store bytes and return their digest; Unavailable when storage does not take them."""
        digest = hashlib.sha256(data).hexdigest()
        try:
            await self._stub().PutBlob(_upload(digest, data), **self._call())
        except grpc.aio.AioRpcError as error:
            raise Unavailable(f"storage does not take the result: {error.details()}") from error
        return digest

    async def get(self, digest: str, *, max_bytes: int) -> bytes:
        """Return the bytes behind a digest; NotFound, Unavailable."""
        data = bytearray()
        try:
            async for piece in self._stub().GetBlob(storage_pb2.GetBlobRequest(digest=digest), **self._call()):
                data += piece.chunk
                if len(data) > max_bytes:
                    raise NotFound(f"blob {digest} is larger than {max_bytes} bytes")
        except grpc.aio.AioRpcError as error:
            if error.code() == grpc.StatusCode.NOT_FOUND:
                raise NotFound(f"blob {digest} is not in storage") from error
            raise Unavailable(f"storage does not answer: {error.details()}") from error
        return bytes(data)

    def _stub(self) -> storage_pb2_grpc.BlobServiceAsyncStub:
        if self._channel is None:
            raise Unavailable("the connection to storage is closed")
        return storage_pb2_grpc.BlobServiceStub(self._channel)

    def _call(self) -> dict[str, Any]:
        ticket = self._signer.sign(Ticket.lasting("qpu_broker", _TICKET_S, blobs="rw", service="qpu_broker"))
        return {
            "metadata": (("authorization", f"Bearer {ticket}"),),
            "timeout": _CALL_TIMEOUT_S,
            "wait_for_ready": True,
        }


def _upload(digest: str, data: bytes) -> Iterator[storage_pb2.PutBlobRequest]:
    yield storage_pb2.PutBlobRequest(header=storage_pb2.PutBlobHeader(digest=digest, size_bytes=len(data)))
    for offset in range(0, len(data), CHUNK_BYTES):
        yield storage_pb2.PutBlobRequest(chunk=data[offset : offset + CHUNK_BYTES])
