"""Consuming: deliveries in, handlers run, each settled once, over reconnects."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import structlog

from qonduit_service_kit import tracing
from qonduit_service_kit.bus.amqp import ANSWER_TIMEOUT_S
from qonduit_service_kit.bus.backoff import backoff_s
from qonduit_service_kit.bus.declaring import declare
from qonduit_service_kit.bus.delivery import Delivery, RawDelivery, raw_message
from qonduit_service_kit.bus.errors import BusError, RejectMessage
from qonduit_service_kit.bus.settling import ChannelSettler
from qonduit_service_kit.bus.topology import DEAD_LETTERS
from qonduit_service_kit.codec import DecodeError, decode_wire_type

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from qonduit_service_kit.bus.amqp import Channel, Connection, Incoming
    from qonduit_service_kit.bus.metrics import BusMetrics
    from qonduit_service_kit.bus.settling import Park
    from qonduit_service_kit.bus.topology import Queue

HANDLER_ATTEMPTS = 10
RETRY_FIRST_S = 0.05
RETRY_MAX_S = 2.0
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
        self._in_order = concurrency == 1
        self._park = park
        self._forget = forget
        self._metrics = metrics
        self._connection: Connection | None = None
        self._settler: ChannelSettler | None = None
        self._begun_on: ChannelSettler | None = None
        """Where deliveries have begun; a resume and a new connection may both come to begin them."""
        self._consumer_tag = ""
        self._buffer: deque[tuple[ChannelSettler, Incoming]] = deque()
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._again: asyncio.Task[None] | None = None
        self._turning = asyncio.Lock()
        """Held while deliveries begin or end: a pause, a resume and a new connection take turns."""
        self._paused = False
        self._delivered = metrics.delivered.labels(queue.label)
        name = f"bus consumer {queue.name}"
        self._workers = [asyncio.create_task(self._work(), name=name) for _ in range(concurrency)]

    # --- Connections come and go ---------------------------------------------------------------

    async def set_up(self, connection: Connection) -> None:
        """Begin to consume on a connection."""
        self._connection = connection
        channel = await connection.channel()
        await channel.prefetch(self._prefetch)
        settler = ChannelSettler(channel, self.queue, self._park, self._metrics, in_order=self._in_order)
        self._settler = settler

        def interrupted() -> None:
            self._interrupted(settler, connection)

        channel.on_cancelled(interrupted)
        async with self._turning:
            if not self._paused:
                await self._begin(settler)
        channel.closed.add_done_callback(lambda _reason: interrupted())

    async def _begin(self, settler: ChannelSettler) -> None:
        if settler is self._begun_on:
            return

        def arrived(incoming: Incoming) -> None:
            self._buffer.append((settler, incoming))
            self._wake.set()

        self._consumer_tag = await settler.channel.consume(self.queue.name, arrived)
        self._begun_on = settler

    async def pause(self) -> None:
        """Take no deliveries until `resume`; what was not begun goes back to the queue. Safe to call twice."""
        async with self._turning:
            if self._paused:
                return
            self._paused = True
            settler, self._begun_on = self._begun_on, None
            if settler is None:
                return  # Between two connections: on the next one nothing is taken.
            with suppress(BusError):
                await settler.channel.cancel(self._consumer_tag)
            while self._buffer:
                owner, incoming = self._buffer.pop()
                owner.requeue(incoming)

    async def resume(self) -> None:
        """Take deliveries again, on the channel that is there. Safe to call twice."""
        async with self._turning:
            if not self._paused:
                return
            self._paused = False
            settler = self._settler
            if settler is not None and not self._stopping.is_set():
                # If the connection or the queue is gone, it all begins again, with deliveries.
                with suppress(BusError):
                    await self._begin(settler)

    def down(self) -> None:
        """The connection is gone: what was not begun comes again, so it is forgotten here."""
        self._connection = None
        self._settler = None
        self._buffer.clear()

    def _interrupted(self, settler: ChannelSettler, connection: Connection) -> None:
        """The broker ended this consumer (its queue was deleted) or closed its channel: begin again.

        When the whole connection is gone, the link sets up everything on the next one.
        """
        if settler is not self._settler or connection.closed.done() or self._stopping.is_set():
            return
        _log.warning("RabbitMQ ended a consumer, beginning again", queue=self.queue.name)
        self._settler = None
        self._buffer.clear()
        name = f"bus consumer {self.queue.name} again"
        self._again = asyncio.create_task(self._begin_again(settler.channel, connection), name=name)

    async def _begin_again(self, channel: Channel, connection: Connection) -> None:
        failures = 0
        while True:
            await asyncio.sleep(backoff_s(failures))
            if self._connection is not connection or self._stopping.is_set():
                return
            try:
                await channel.close()
                channel = await connection.channel()
                if not self.queue.kept_by_sender:
                    await declare(channel, self.queue)
                await channel.close()
                await self.set_up(connection)
            except BusError as error:
                _log.warning("cannot consume, trying again", queue=self.queue.name, reason=str(error))
                failures += 1
            else:
                return

    async def cancel(self, *, grace_s: float = 5.0) -> None:
        """Take no new deliveries, let running handlers end, give the rest back; safe to call twice.

        A handler still running after `grace_s` seconds is cancelled, and its message goes back as well.
        """
        self._stopping.set()
        self._forget(self)
        self._buffer.clear()
        self._wake.set()
        settler, self._settler = self._settler, None
        # Not after a pause: nothing answers a cancel of a consumer that is none any more.
        if settler is not None and settler is self._begun_on:
            with suppress(BusError, TimeoutError):
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    await settler.channel.cancel(self._consumer_tag)
        tasks = [*self._workers, *([self._again] if self._again else [])]
        running = {task for task in tasks if task is not asyncio.current_task() and not task.done()}
        if running:
            _, late = await asyncio.wait(running, timeout=grace_s)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
        if settler is not None:
            settler.flush()
            await settler.channel.close()

    # --- Messages ------------------------------------------------------------------------------

    async def _work(self) -> None:
        while not self._stopping.is_set():
            if self._buffer:
                settler, incoming = self._buffer.popleft()
                await self._handle(settler, incoming)
            else:
                self._wake.clear()
                await self._wake.wait()

    async def _handle(self, settler: ChannelSettler, incoming: Incoming) -> None:
        """Run the handler until it succeeds, in place: the ones behind wait, which keeps the order.

        Giving the message back instead would let others pass it, and a short trouble of the service (its
        database is busy) would burn the delivery counts of the whole queue.
        """
        self._delivered.inc()
        if incoming.redelivered:
            self._metrics.redelivered.labels(self.queue.label).inc()
        attempt = 1
        while not await self._try(settler, incoming, attempt):
            pause = min(RETRY_MAX_S, RETRY_FIRST_S * 2 ** (min(attempt, 16) - 1))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
            # Taken back by the broker meanwhile: it comes again, here or elsewhere.
            if self._stopping.is_set() or not settler.alive:
                return
            attempt += 1

    async def _try(self, settler: ChannelSettler, incoming: Incoming, attempt: int) -> bool:
        """Run the handler once; return whether the message is settled."""
        try:
            delivery = self._wrap(settler, incoming, again=incoming.redelivered or attempt > 1)
        except DecodeError as error:
            return await self._park_unless_parked(settler, incoming, str(error))
        try:
            with tracing.at(str(incoming.headers.get(tracing.HEADER, ""))):
                await self._handler(delivery)
            await delivery.ack()
        except RejectMessage as error:
            reason, final = str(error), True
        except (Exception, asyncio.CancelledError) as error:
            # Whatever a handler raises must not end the consumer, also the cancellation of something it awaited.
            if self._cancelled():
                raise
            self._note_failure(incoming, error, attempt)
            reason, final = f"{type(error).__name__}: {error}", attempt >= HANDLER_ATTEMPTS
        else:
            return True
        if delivery.settled:
            return True
        return final and await self._park_unless_parked(settler, incoming, reason)

    @staticmethod
    def _cancelled() -> bool:
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0

    async def _park_unless_parked(self, settler: ChannelSettler, incoming: Incoming, reason: str) -> bool:
        """Send a message to the dead letters; False if it must be tried again."""
        if self.queue.name == DEAD_LETTERS.name:
            return False  # It has nowhere further to go: it is tried until it succeeds.
        try:
            await settler.park(incoming, reason)
        except BusError as error:
            _log.warning("a message could not be parked", queue=self.queue.name, reason=str(error))
            return False
        return True

    def _note_failure(self, incoming: Incoming, error: BaseException, attempt: int) -> None:
        self._metrics.failed.labels(self.queue.label).inc()
        text = "handler failed"
        _log.error(text, queue=self.queue.name, type=incoming.type, attempt=attempt, exc_info=error)

    def _wrap(self, settler: ChannelSettler, incoming: Incoming, *, again: bool) -> Delivery | RawDelivery:
        if self._raw:
            return RawDelivery(raw_message(incoming), incoming, settler, again=again)
        return Delivery(decode_wire_type(incoming.type, incoming.body), incoming, settler, again=again)
