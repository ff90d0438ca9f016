"""Publishing with pipelined confirms, over reconnects, until the broker has taken each message."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING

from qonduit_service_kit.bus.errors import BusClosedError, BusError, LinkLostError, UnroutableError

if TYPE_CHECKING:
    from qonduit_service_kit.bus.amqp import Channel, Connection, Outgoing
    from qonduit_service_kit.bus.metrics import BusMetrics

REFUSED_RETRY_S = 0.2
"""Wait before a message that the broker refused (a full queue) is sent again."""


class Publisher:
    """Everything between a caller's publish and the broker's confirm."""

    def __init__(self, metrics: BusMetrics) -> None:
        self._metrics = metrics
        self._channel: Channel | None = None
        self._blocked = False
        self._backlog: deque[Outgoing] = deque()
        """Not on the wire: no connection, or publishers are blocked. Sent in this order."""
        self._in_flight: dict[int, Outgoing] = {}
        """By delivery tag, oldest first."""
        self._next_tag = 1
        self._closed = False
        self._closing: asyncio.Future[None] | None = None
        self._drained = asyncio.Event()
        self._drained.set()
        self.last_confirm_at = 0.0

    async def set_up(self, connection: Connection) -> None:
        """Take a new connection and send everything that is not confirmed."""
        channel = await connection.channel()
        await channel.confirm(self._on_confirm, self._on_return)
        connection.on_blocked(self._on_blocked)
        self._blocked = False
        self._next_tag = 1
        self._channel = channel
        # RabbitMQ closes only the channel when it dislikes a publish; all is begun again on a new connection.
        channel.closed.add_done_callback(lambda _reason: self._give_up(connection))
        self._send_backlog()

    def down(self) -> None:
        """The connection is gone: nobody knows what of the unconfirmed arrived, so all of it goes again."""
        self._channel = None
        self._backlog.extendleft(reversed(self._in_flight.values()))
        self._in_flight.clear()
        self._metrics.blocked.set(0)

    def _give_up(self, connection: Connection) -> None:
        if not connection.closed.done():
            self._closing = asyncio.ensure_future(connection.close())

    async def publish(self, message: Outgoing) -> None:
        """Return once confirmed.

        Raises:
            UnroutableError: No queue is bound.
            BusClosedError: The bus was stopped before the broker confirmed; it may have arrived all the same.
        """
        if self._closed:
            raise BusClosedError("the bus is stopped")
        self._drained.clear()
        if self._backlog or not self._sendable():
            self._backlog.append(message)
        else:
            self._send(message)
        await message.confirmed

    async def drain(self, timeout_s: float) -> None:
        """Take no more messages, wait for the unconfirmed, and fail what is left."""
        self._closed = True
        try:
            async with asyncio.timeout(timeout_s):
                await self._drained.wait()
        except TimeoutError:
            pass
        for message in (*self._in_flight.values(), *self._backlog):
            if not message.confirmed.done():
                message.confirmed.set_exception(BusClosedError("the bus was stopped before RabbitMQ confirmed"))
        self._in_flight.clear()
        self._backlog.clear()

    def _sendable(self) -> bool:
        return self._channel is not None and not self._blocked and self._channel.is_open

    def _send(self, message: Outgoing) -> None:
        assert self._channel is not None  # noqa: S101 - callers have checked.
        try:
            self._channel.publish(message)
        except LinkLostError:
            self._backlog.append(message)
            return
        except BusError as error:
            message.confirmed.set_exception(error)
            return
        self._in_flight[self._next_tag] = message
        self._next_tag += 1
        self._metrics.published.inc()

    def _send_backlog(self) -> None:
        while self._backlog and self._sendable():
            message = self._backlog.popleft()
            if not message.confirmed.done():
                message.returned = False
                self._send(message)
        self._note_drained()

    def _on_blocked(self, blocked: bool) -> None:  # noqa: FBT001 - a callback of one fact.
        self._blocked = blocked
        self._metrics.blocked.set(int(blocked))
        if not blocked:
            self._send_backlog()

    def _on_return(self, message_id: str, _exchange: str, _key: str) -> None:
        # The broker returns a message before it confirms it, so it still is among the oldest in flight.
        for message in self._in_flight.values():
            if message.message_id == message_id and not message.returned:
                message.returned = True
                return

    def _on_confirm(self, tag: int, multiple: bool, taken: bool) -> None:  # noqa: FBT001 - as AMQP has it.
        self.last_confirm_at = time.monotonic()
        if not multiple:
            message = self._in_flight.pop(tag, None)
            if message is not None:
                self._settle(message, taken=taken)
        else:
            while self._in_flight:
                oldest = next(iter(self._in_flight))
                if oldest > tag:
                    break
                self._settle(self._in_flight.pop(oldest), taken=taken)
        self._note_drained()

    def _settle(self, message: Outgoing, *, taken: bool) -> None:
        if not taken:
            self._metrics.refused.inc()
            asyncio.get_running_loop().call_later(REFUSED_RETRY_S, self._again, message)
            return
        self._metrics.confirmed.inc()
        self._metrics.publish_seconds.observe(self.last_confirm_at - message.since)
        if message.confirmed.done():
            return
        if message.returned:
            self._metrics.returned.inc()
            message.confirmed.set_exception(
                UnroutableError(f"no queue is bound for {message.exchange!r} with key {message.key!r}")
            )
        else:
            message.confirmed.set_result(None)

    def _again(self, message: Outgoing) -> None:
        if not message.confirmed.done():
            if self._closed:
                message.confirmed.set_exception(BusClosedError("the bus was stopped before RabbitMQ took the message"))
                return
            self._backlog.append(message)
            self._send_backlog()

    def _note_drained(self) -> None:
        self._metrics.unconfirmed.set(len(self._in_flight) + len(self._backlog))
        if not self._in_flight and not self._backlog:
            self._drained.set()
