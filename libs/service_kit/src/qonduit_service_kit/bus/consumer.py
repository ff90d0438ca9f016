"""Consuming: deliveries in, handlers run, settled once, over reconnects."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import structlog

from qonduit_service_kit.bus.delivery import Delivery, Raw, RawDelivery
from qonduit_service_kit.bus.errors import BusError, RejectMessage
from qonduit_service_kit.bus.topology import Queue
from qonduit_service_kit.codec import DecodeError, decode_wire_type

if TYPE_CHECKING:
    from qonduit_service_kit.bus.amqp import Channel, Connection, Incoming
    from qonduit_service_kit.bus.metrics import BusMetrics

HANDLER_ATTEMPTS = 10
RETRY_FIRST_S = 0.05
RETRY_MAX_S = 2.0
HEADER_REASON = "qonduit-reason"
HEADER_QUEUE = "qonduit-source-queue"
HEADER_EXCHANGE = "qonduit-exchange"
HEADER_KEY = "qonduit-key"

Park = Callable[["Incoming", str, str], Awaitable[None]]
"""Puts a message among the dead letters: (message, source queue, reason); returns once that is confirmed."""
_log = structlog.get_logger("bus")


class Subscription:
    """One consumer of one queue, on a channel of its own, set up again on every connection."""

    def __init__(
        self,
        queue: Queue,
        handler: Callable[[Any], Awaitable[None]],
        *,
        raw: bool,
        prefetch: int,
        concurrency: int,
        park: Park,
        forget: Callable[[Subscription], None],
        metrics: BusMetrics,
    ) -> None:
        self.queue = queue
        self._handler = handler
        self._raw = raw
        self._prefetch = max(prefetch, concurrency)
        self._park = park
        self._forget = forget
        self._metrics = metrics
        self._channel: Channel | None = None
        self._tag = ""
        self._buffer: deque[tuple[Channel, Incoming]] = deque()
        self._arrived = asyncio.Condition()
        self._wake = asyncio.Event()
        self._stopping = False
        self._workers = [
            asyncio.create_task(self._work(), name=f"bus consumer {queue.name}") for _ in range(concurrency)
        ]
        self._ended = asyncio.Event()

    async def set_up(self, connection: Connection) -> None:
        """Begin to consume on a new connection."""
        if self._stopping:
            return
        channel = await connection.channel()
        await channel.prefetch(self._prefetch)
        self._channel = channel

        def arrived(incoming: Incoming) -> None:
            self._buffer.append((channel, incoming))
            self._wake.set()

        self._tag = await channel.consume(self.queue.name, arrived, lambda: self._on_cancelled(connection))

    def down(self) -> None:
        """The connection is gone: what was not begun comes again, so it is forgotten here."""
        self._channel = None
        self._buffer.clear()

    def _on_cancelled(self, connection: Connection) -> None:
        """The broker ended the consumer: its queue was deleted or moved. Have it declared and consumed again."""
        if not self._stopping:
            _log.warning("RabbitMQ ended a consumer, connecting again", queue=self.queue.name)
            self.down()
            self._reconnect = asyncio.ensure_future(connection.close())

    async def cancel(self, *, grace_s: float = 5.0) -> None:
        """Take no new deliveries, let running handlers end, give the rest back; safe to call twice.

        A handler still running after `grace_s` seconds is cancelled, and its message goes back as well.
        """
        self._stopping = True
        self._forget(self)
        self._buffer.clear()
        self._wake.set()
        channel = self._channel
        others = [worker for worker in self._workers if worker is not asyncio.current_task() and not worker.done()]
        if channel is not None and channel.is_open:
            try:
                await channel.cancel(self._tag)
            except BusError:
                pass
        if others:
            _, late = await asyncio.wait(others, timeout=grace_s)
            for worker in late:
                worker.cancel()
            if late:
                await asyncio.wait(late)
        if channel is not None:
            await channel.close()

    async def _work(self) -> None:
        while not self._stopping:
            if not self._buffer:
                self._wake.clear()
                await self._wake.wait()
                continue
            channel, incoming = self._buffer.popleft()
            await self._handle(_OnChannel(channel, self), incoming)

    async def _handle(self, settler: _OnChannel, incoming: Incoming) -> None:
        """Run the handler until it succeeds, in place: others wait, which keeps the order.

        Giving the message back instead would let the ones behind it pass, and a short trouble of the service
        (its database is busy) would burn the delivery counts of the whole queue.
        """
        again = incoming.redelivered
        self._metrics.delivered.labels(self.queue.name).inc()
        if again:
            self._metrics.redelivered.labels(self.queue.name).inc()
        for attempt in range(1, HANDLER_ATTEMPTS + 1):
            try:
                delivery = self._wrap(incoming, settler, again=again)
                await self._handler(delivery)
                await delivery.ack()
            except (RejectMessage, DecodeError) as error:
                await settler.park(incoming, str(error))
                return
            except Exception as error:  # Whatever a handler raises must not end the consumer.
                if not settler.alive or self._stopping:
                    return
                self._metrics.failed.labels(self.queue.name).inc()
                _log.exception("handler failed", queue=self.queue.name, type=incoming.type, attempt=attempt)
                if attempt == HANDLER_ATTEMPTS:
                    await settler.park(incoming, f"{type(error).__name__}: {error}")
                    return
                await asyncio.sleep(min(RETRY_MAX_S, RETRY_FIRST_S * 2 ** (attempt - 1)))
                if not settler.alive or self._stopping:
                    return
                again = True
            else:
                return

    def _wrap(self, incoming: Incoming, settler: _OnChannel, *, again: bool) -> Delivery | RawDelivery:
        if self._raw:
            return RawDelivery(_raw(incoming), incoming, settler, again=again)
        return Delivery(decode_wire_type(incoming.type, incoming.body), incoming, settler, again=again)


class _OnChannel:
    """Settles deliveries on the channel they came by; on a closed one the broker has taken them back."""

    __slots__ = ("_channel", "_subscription")

    def __init__(self, channel: Channel, subscription: Subscription) -> None:
        self._channel = channel
        self._subscription = subscription

    @property
    def alive(self) -> bool:
        return self._channel.is_open

    def ack(self, incoming: Incoming) -> None:
        self._channel.ack(incoming.tag)

    def requeue(self, incoming: Incoming) -> None:
        self._channel.requeue(incoming.tag)

    async def park(self, incoming: Incoming, reason: str) -> None:
        """First among the dead letters, then off the queue: a crash between makes two, never none."""
        me = self._subscription
        _log.error("message goes to the dead letters", queue=me.queue.name, type=incoming.type, reason=reason)
        await me._park(incoming, me.queue.name, reason)  # noqa: SLF001 - the two are one mechanism.
        me._metrics.dead.labels(me.queue.name).inc()  # noqa: SLF001
        self._channel.ack(incoming.tag)


def _raw(incoming: Incoming) -> Raw:
    headers = incoming.headers
    deaths = headers.get("x-death") or [{}]
    return Raw(
        body=incoming.body,
        type_name=incoming.type,
        message_id=incoming.message_id,
        sender=incoming.app_id,
        reason=str(headers.get(HEADER_REASON) or headers.get("x-first-death-reason") or deaths[0].get("reason") or ""),
        source_queue=str(headers.get(HEADER_QUEUE) or headers.get("x-first-death-queue") or deaths[0].get("queue") or ""),
        exchange=str(headers.get(HEADER_EXCHANGE) or headers.get("x-first-death-exchange") or incoming.exchange),
        key=str(headers.get(HEADER_KEY) or (deaths[0].get("routing-keys") or [incoming.key])[0]),
        headers=headers,
    )
