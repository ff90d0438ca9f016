"""Hands each message of the gateway's inbox to whom it concerns."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from qonduit_service_kit.bus import GATEWAY_INBOX, RejectMessage
from qonduit_service_kit.logs import get_logger

from qonduit_gateway.database.engine import DatabaseUnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from qonduit_service_kit.bus import Bus, Delivery, Subscription

_PREFETCH = 128
_CONCURRENCY = 32
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
_log = get_logger("inbox")


class Inbox:
    """Consumes the inbox. Handlers are idempotent: a message may come twice, late, or out of order.

    Messages of one job are handled one after the other, as they came: an end that waits for the database
    must not be overtaken by the word that its attempt is lost.
    """

    def __init__(
        self,
        bus: Bus,
        handlers: Mapping[type, Callable[[Any], Awaitable[object]]],
        *,
        in_any_order: frozenset[type] = frozenset(),
    ) -> None:
        """Take the handlers by type; messages of the types `in_any_order` wait for no other one of their job."""
        self._bus = bus
        self._handlers = dict(handlers)
        self._in_any_order = in_any_order
        self._subscription: Subscription | None = None
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def start(self) -> None:
        """Begin to consume."""
        self._subscription = await self._bus.consume(
            GATEWAY_INBOX, self.handle, prefetch=_PREFETCH, concurrency=_CONCURRENCY
        )

    async def stop(self) -> None:
        """Stop; what is not handled goes back to the queue. Safe to call twice."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await subscription.cancel()

    async def handle(self, delivery: Delivery) -> None:
        """Handle one message; it is acknowledged after the commit."""
        handler = self._handlers.get(type(delivery.message))
        if handler is None:
            raise RejectMessage(f"the gateway does not handle {type(delivery.message).__name__}")
        job_id = getattr(delivery.message, "job_id", None)
        if job_id is None or type(delivery.message) in self._in_any_order:
            await self._until_done(handler, delivery.message)
            return
        turn = self._turns.setdefault(job_id, asyncio.Lock())
        async with turn:
            await self._until_done(handler, delivery.message)

    async def _until_done(self, handler: Callable[[Any], Awaitable[object]], message: Any) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                await handler(message)
            except DatabaseUnavailableError as error:
                # Given back, it would end in the dead letters, though nothing is wrong with it.
                _log.warning("the database does not answer, trying again", cause=str(error))
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, no secret.
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            else:
                return
