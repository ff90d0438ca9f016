"""Requests to the QPU broker over the bus, and the replies that come back."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from qonduit_service_kit.bus import BusClosedError, UnroutableError
from qonduit_service_kit.messages import QPU_BROKER, Address, QpuReply, QpuRequest

if TYPE_CHECKING:
    from pathlib import Path

    from qonduit_worker.qpu_endpoint.bodies import Body
    from qonduit_worker.qpu_endpoint.context import ProgramContext

RESEND_S: Final = 20.0
CALLS_AT_A_TIME: Final = 32
"""One program's calls must not fill the broker's inbox before those of others."""
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

    def new_part(self) -> Path:
        """Return a name for a file that `put_file` can take over."""

    async def put_file(self, digest: str, part: Path) -> None:
        """Store a file of this sha256; it is moved away."""

    async def get(self, digest: str) -> bytes:
        """Return the bytes behind a digest."""

    async def open(self, digest: str) -> int:
        """Return a descriptor to read the bytes behind a digest, which is the caller's."""


class BrokerGoneError(Exception):
    """The endpoint stops: no answer will come."""


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request, as far as the broker is told of it."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    api_version: str = ""
    body: Body | None = None
    call_number: int = 0


@dataclass(frozen=True, slots=True)
class Received:
    """An answer; its bytes are at hand or, for a digest, in storage."""

    status: int
    content_type: str
    body: bytes
    digest: str = ""


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
        self._room = asyncio.Semaphore(CALLS_AT_A_TIME)

    async def whole(self, call: Call) -> Received:
        """Return the broker's answer with its bytes at hand; BrokerGoneError once stopped."""
        received = await self.call(call)
        if not received.digest:
            return received
        return Received(received.status, received.content_type, await self._blobs.get(received.digest))

    async def call(self, call: Call) -> Received:
        """Return the broker's answer; BrokerGoneError once stopped."""
        body = call.body
        if body is not None and body.part is not None:
            await self._blobs.put_file(body.digest, body.part)
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
            body=None if body is None else body.data,
            body_digest="" if body is None or body.part is None else body.digest,
            qpu_budget_s=self._context.qpu_budget_s,
            user_qpu_budget_s=self._context.user_qpu_budget_s,
        )
        async with self._room:
            reply = await self._reply_to(request)
        return Received(reply.status, reply.content_type, reply.body or b"", reply.body_digest)

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
