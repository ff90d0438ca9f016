"""Settling the deliveries of one channel: acknowledged together where that is safe, parked, or given back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from qonduit_service_kit.bus.errors import LinkLostError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from qonduit_service_kit.bus.amqp import Channel, Incoming
    from qonduit_service_kit.bus.metrics import BusMetrics
    from qonduit_service_kit.bus.topology import Queue

    Park = Callable[[Incoming, str, str], Awaitable[None]]
    """Puts a message among the dead letters: (message, source queue, reason); returns once that is confirmed."""

_log = structlog.get_logger("bus")


class ChannelSettler:
    """Settles deliveries on the channel they came by; on a closed one the broker has taken them back already."""

    def __init__(self, channel: Channel, queue: Queue, park: Park, metrics: BusMetrics, *, in_order: bool) -> None:
        self.channel = channel
        self._queue = queue
        self._park = park
        self._metrics = metrics
        self._in_order = in_order
        """Each delivery is settled before the next is begun, so that one ack may stand for all before it."""
        self._unsent = 0
        self._loop = asyncio.get_running_loop()

    @property
    def alive(self) -> bool:
        """Whether settling still reaches the broker."""
        return self.channel.is_open

    def ack(self, incoming: Incoming) -> None:
        """Acknowledge, at the latest when the event loop comes round."""
        if not self._in_order:
            self.channel.ack(incoming.tag)
            return
        if not self._unsent:
            self._loop.call_soon(self.flush)
        self._unsent = incoming.tag

    def flush(self) -> None:
        """Send the acks that are waiting."""
        tag, self._unsent = self._unsent, 0
        if tag:
            self._send(tag, multiple=True)

    def requeue(self, incoming: Incoming) -> None:
        """Give a delivery back."""
        self.flush()
        if self.channel.is_open:
            self.channel.requeue(incoming.tag)

    async def park(self, incoming: Incoming, reason: str) -> None:
        """First among the dead letters, then off the queue: a crash between makes two, never none."""
        _log.error("message goes to the dead letters", queue=self._queue.name, type=incoming.type, reason=reason)
        await self._park(incoming, self._queue.name, reason)
        self._metrics.dead.labels(self._queue.label).inc()
        self.flush()
        self._send(incoming.tag, multiple=False)

    def _send(self, tag: int, *, multiple: bool) -> None:
        try:
            self.channel.ack(tag, multiple=multiple)
        except LinkLostError:
            # The broker gives the message to somebody again: consumers know repeated ones.
            return
