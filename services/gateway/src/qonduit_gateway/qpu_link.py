"""Asks the QPU broker over the bus."""

from __future__ import annotations

import asyncio
import json
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
from qonduit_service_kit.bus import BusError
from qonduit_service_kit.errors import ApiError
from qonduit_service_kit.messages import GATEWAY, QPU_BROKER, QpuReply, QpuRequest

if TYPE_CHECKING:
    from qonduit_service_kit.bus import Bus

    from qonduit_gateway.storage_client import StorageClient

_GOOD = range(200, 300)
_NOT_FOUND = 404
_CONFLICT = 409
_CHANGE_PATIENCE_S = 15.0
"""How much longer a change may take than a question: a job that runs is cancelled as soon as its device lets go."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the broker answered, as the runtime API gives it."""

    status: int
    body: bytes

    @property
    def ok(self) -> bool:
        """Whether it is what was asked for."""
        return self.status in _GOOD

    @property
    def not_found(self) -> bool:
        """Whether there is no such thing."""
        return self.status == _NOT_FOUND

    @property
    def conflicts(self) -> bool:
        """Whether the thing is not in a state for it."""
        return self.status == _CONFLICT

    @property
    def message(self) -> str:
        """What a refusal says, in the runtime API's shape of errors or as it is."""
        try:
            return str(json.loads(self.body)["errors"][0]["message"])
        except (ValueError, LookupError, TypeError):
            return self.body[:500].decode("utf-8", "replace")

    def json(self) -> Any:
        """Return the body read as JSON; ApiError when it isn't."""
        try:
            return json.loads(self.body)
        except ValueError:
            raise ApiError(
                grpc.StatusCode.INTERNAL, "QPU_BROKER_ERROR", "The QPU broker's answer can't be read."
            ) from None


class QpuLink:
    """Requests to the QPU broker and the replies to them, which arrive in the gateway's inbox."""

    def __init__(self, bus: Bus, storage: StorageClient, *, timeout_s: float) -> None:
        self._bus = bus
        self._storage = storage
        self._timeout_s = timeout_s
        self._open: dict[str, asyncio.Future[QpuReply]] = {}

    async def get(self, user: str, path: str, *, query: tuple[tuple[str, str], ...] = ()) -> Answer:
        """Make a GET request of the runtime API.

        Raises:
            ApiError: UNAVAILABLE (QPU_UNAVAILABLE) when no answer comes in time.
        """
        return await self._answer(_request(user, "GET", path, query=query), self._timeout_s)

    async def change(self, user: str, method: str, path: str, *, body: bytes | None = None) -> Answer:
        """Make a request that changes something; errors as for `get`, and it may have happened all the same."""
        return await self._answer(_request(user, method, path, body=body), self._timeout_s + _CHANGE_PATIENCE_S)

    async def _answer(self, request: QpuRequest, timeout_s: float) -> Answer:
        reply = await self._ask(request, timeout_s)
        return Answer(reply.status, await self._body(reply))

    async def reply(self, message: QpuReply) -> None:
        """Take a reply; one that nobody waits for any more is dropped."""
        waiting = self._open.get(message.request_id)
        if waiting is not None and not waiting.done():
            waiting.set_result(message)

    async def _ask(self, request: QpuRequest, timeout_s: float) -> QpuReply:
        waiting: asyncio.Future[QpuReply] = asyncio.get_running_loop().create_future()
        self._open[request.request_id] = waiting
        try:
            async with asyncio.timeout(timeout_s):
                await self._bus.publish(QPU_BROKER, request, persistent=False)
                return await waiting
        except (TimeoutError, BusError):
            text = f"The QPU broker gave no answer within {timeout_s:g} s. Try again in a moment."
            raise ApiError(grpc.StatusCode.UNAVAILABLE, "QPU_UNAVAILABLE", text) from None
        finally:
            del self._open[request.request_id]

    async def _body(self, reply: QpuReply) -> bytes:
        if not reply.body_digest:
            return reply.body or b""
        return b"".join([chunk async for chunk in self._storage.blob(reply.body_digest)])


def _request(
    user: str, method: str, path: str, *, query: tuple[tuple[str, str], ...] = (), body: bytes | None = None
) -> QpuRequest:
    """Return a request without a job: it concerns all that its user has."""
    return QpuRequest(
        request_id=uuid.uuid4().hex,
        reply_to=GATEWAY,
        user=user,
        job_id="",
        attempt=0,
        method=method,
        path=path,
        query=query,
        body=body,
    )
