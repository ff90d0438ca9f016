"""Requests to the QPU broker over the bus, and the replies that come back."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from qonduit_service_kit.bus import BusClosedError, UnroutableError
from qonduit_service_kit.messages import INLINE_LIMIT_BYTES, QPU_BROKER, Address, QpuReply, QpuRequest

if TYPE_CHECKING:
    from qonduit_worker.qpu_endpoint.context import ProgramContext

RESEND_S: Final = 20.0
_UNROUTABLE_PAUSE_S: Final = 0.5


class Publisher(Protocol):
    """The side of the bus that sends."""

    async def publish(
        self,
        to: Address,
        body: object,
        *,
        persistent: bool = True,
        mandatory: bool = True,
        message_id: str | None = None,
    ) -> None:
        """Send and return once confirmed."""


class Blobs(Protocol):
    """The job's blobs in storage."""

    async def put(self, data: bytes) -> str:
        """Store bytes and return their sha256 in hexadecimal."""

    async def get(self, digest: str) -> bytes:
        """Return the bytes behind a digest."""


class BrokerGoneError(Exception):
    """The endpoint stops: no answer will come."""


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request, as far as the broker is told of it."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    api_version: str = ""
    body: bytes | None = None
    call_number: int = 0


@dataclass(frozen=True, slots=True)
class Received:
    """An answer with its bytes at hand."""

    status: int
    content_type: str
    body: bytes


class BrokerCalls:
    """Sends calls and waits for their replies, as long as it takes.

    A broker that is down finds the request in its queue when it is back; one that was lost all the same is sent
    again under the same id, which the broker answers from its ledger.
    """

    def __init__(self, bus: Publisher, blobs: Blobs, context: ProgramContext) -> None:
        self._bus = bus
        self._blobs = blobs
        self._context = context
        self._waiting: dict[str, asyncio.Future[QpuReply]] = {}
        self._stopped = False
        self._caller = uuid.uuid4().hex

    async def call(self, call: Call) -> Received:
        """Return the broker's answer; BrokerGoneError once stopped."""
        body, digest = call.body, ""
        if body is not None and len(body) > INLINE_LIMIT_BYTES:
            digest = await self._blobs.put(body)
            body = None
        request = QpuRequest(
            request_id=uuid.uuid4().hex,
            reply_to=self._context.reply_to,
            user=self._context.user,
            job_id=self._context.job_id,
            attempt=self._context.attempt,
            method=call.method,
            path=call.path,
            query=call.query,
            api_version=call.api_version,
            call_number=call.call_number,
            caller=self._caller,
            body=body,
            body_digest=digest,
            qpu_budget_s=self._context.qpu_budget_s,
            user_qpu_budget_s=self._context.user_qpu_budget_s,
        )
        reply = await self._reply_to(request)
        data = await self._blobs.get(reply.body_digest) if reply.body_digest else reply.body or b""
        return Received(reply.status, reply.content_type, data)

    async def _reply_to(self, request: QpuRequest) -> QpuReply:
        if self._stopped:
            raise BrokerGoneError
        future: asyncio.Future[QpuReply] = asyncio.get_running_loop().create_future()
        self._waiting[request.request_id] = future
        try:
            while True:
                await self._send(request)
                done, _ = await asyncio.wait([future], timeout=RESEND_S)
                if done:
                    return future.result()
        finally:
            del self._waiting[request.request_id]

    async def _send(self, request: QpuRequest) -> None:
        while True:
            try:
                await self._bus.publish(QPU_BROKER, request)
            except UnroutableError:
                # RabbitMQ was wiped: every service declares the broker's queue again as it reconnects.
                await asyncio.sleep(_UNROUTABLE_PAUSE_S)
            except BusClosedError:
                raise BrokerGoneError from None
            else:
                return

    def handle_reply(self, reply: QpuReply) -> None:
        """Give a reply to whoever waits for it; a second one finds nobody."""
        future = self._waiting.get(reply.request_id)
        if future is not None and not future.done():
            future.set_result(reply)

    def stop(self) -> None:
        """Let nobody wait any more."""
        self._stopped = True
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(BrokerGoneError())
