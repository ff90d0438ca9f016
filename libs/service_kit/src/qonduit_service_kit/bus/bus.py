"""The bus as services see it."""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from qonduit_service_kit import tracing
from qonduit_service_kit.bus.amqp import Outgoing
from qonduit_service_kit.bus.consumer import Subscription
from qonduit_service_kit.bus.control import Control
from qonduit_service_kit.bus.declaring import declare, declare_all
from qonduit_service_kit.bus.delivery import parking_headers
from qonduit_service_kit.bus.errors import (
    BusClosedError,
    BusError,
    LinkLostError,
    MessageTooLargeError,
    TopologyError,
    UnroutableError,
)
from qonduit_service_kit.bus.link import Link
from qonduit_service_kit.bus.metrics import metrics_for
from qonduit_service_kit.bus.publisher import Publisher
from qonduit_service_kit.bus.topology import DEAD_LETTERS, EXCHANGES, WELL_KNOWN, Queue
from qonduit_service_kit.codec import encode, wire_type

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from prometheus_client import CollectorRegistry

    from qonduit_service_kit.bus.amqp import Connection, Incoming
    from qonduit_service_kit.bus.delivery import Delivery, RawDelivery
    from qonduit_service_kit.messages import Address

DRAIN_S = 5.0
BODY_LIMIT_BYTES = 8 * 1024**2
"""A last guard: RabbitMQ 4 closes the channel over 16 MiB, and messages should stay under 64 KiB."""


class Bus:
    """Typed messages over RabbitMQ: at least once, two connections, both kept up for ever.

    Publishing and consuming have a connection each, because RabbitMQ stops reading from publishers when it is
    short of memory or disk, and acknowledgements must still get through then. `well_known` queues are declared
    on every connect, so that services may start in any order.
    """

    def __init__(
        self,
        url: str,
        *,
        app_id: str,
        registry: CollectorRegistry | None = None,
        well_known: Iterable[Queue] = WELL_KNOWN,
    ) -> None:
        self._app_id = app_id
        self._id_prefix = f"{uuid.uuid4().hex}-"
        self._ids = itertools.count()
        self._metrics = metrics_for(registry)
        self._queues: dict[str, Queue] = {}
        self._exchanges = set(EXCHANGES)
        self._remember(well_known)
        self._subscriptions: list[Subscription] = []
        self._publisher = Publisher(self._metrics)
        self._publishing = Link(
            url,
            owner=app_id,
            role="publish",
            set_up=self._set_up_publishing,
            down=self._publisher.down,
            metrics=self._metrics,
        )
        self._consuming = Link(
            url,
            owner=app_id,
            role="consume",
            set_up=self._set_up_consuming,
            down=self._consuming_down,
            metrics=self._metrics,
        )
        self._control = Control(self._consuming)
        self._stopped = False

    def _remember(self, queues: Iterable[Queue]) -> None:
        for queue in queues:
            self._queues[queue.name] = queue
            self._exchanges.update(address.exchange for address in queue.addresses)

    # --- Life ----------------------------------------------------------------------------------

    async def start(self, *, timeout_s: float = 60.0) -> None:
        """Connect, and stay connected from now on.

        Raises:
            BusError: RabbitMQ could not be reached within `timeout_s`; the text names it and the cause.
        """
        self._publishing.start()
        self._consuming.start()
        try:
            async with asyncio.timeout(timeout_s):
                await self.wait_connected()
        except TimeoutError:
            cause = self._publishing.last_error or self._consuming.last_error or "no answer"
            await self.stop()
            raise BusError(
                f"RabbitMQ at {self._publishing.where} could not be reached within {timeout_s:.0f} s: {cause}"
            ) from None

    async def stop(self) -> None:
        """Stop consuming, wait a few seconds for unconfirmed publishes, disconnect; safe to call twice."""
        self._stopped = True
        await asyncio.gather(*(subscription.cancel() for subscription in list(self._subscriptions)))
        await self._publisher.drain(DRAIN_S if self._publishing.connected else 0.0)
        await self._consuming.stop()
        await self._publishing.stop()

    @property
    def connected(self) -> bool:
        """Whether both connections are up."""
        return self._publishing.connected and self._consuming.connected

    @property
    def connections_made(self) -> int:
        """How many connections were set up so far: more than before means that RabbitMQ was away meanwhile."""
        return self._publishing.made + self._consuming.made

    async def wait_connected(self) -> None:
        """Return once both connections are up."""
        while not self.connected:
            await self._publishing.wait_up()
            await self._consuming.wait_up()

    @property
    def last_confirm_at(self) -> float:
        """Monotonic time of the last confirm (seconds; 0 before the first)."""
        return self._publisher.last_confirm_at

    # --- Topology ------------------------------------------------------------------------------

    async def declare(self, *queues: Queue) -> None:
        """Declare queues with their exchanges and bindings, now and on every later connect.

        Raises:
            TopologyError: A queue of that name exists with other arguments.
        """
        for queue in queues:
            await self._control.run(partial(declare, queue=queue, known_exchanges=self._exchanges))
            self._remember([queue])

    async def delete(self, queue: Queue) -> None:
        """Delete a queue with all that is in it; nothing happens if there is none."""
        self._queues.pop(queue.name, None)
        await self._control.run(lambda channel: channel.delete_queue(queue.name))

    async def count(self, queue: Queue) -> int:
        """Return how many messages are ready in a queue; TopologyError if it does not exist."""
        return await self._control.run(lambda channel: channel.count(queue.name))

    async def _set_up_publishing(self, connection: Connection) -> None:
        consumed = {subscription.queue.name: subscription.queue for subscription in self._subscriptions}
        await declare_all(connection, self._exchanges, list((consumed | self._queues).values()))
        await self._publisher.set_up(connection)

    # --- Publishing ----------------------------------------------------------------------------

    async def publish(
        self,
        to: Address,
        body: object,
        *,
        persistent: bool = True,
        mandatory: bool = True,
        message_id: str | None = None,
    ) -> None:
        """Send a registered message and return once RabbitMQ has taken it.

        Over reconnects it is sent again with the same id until it is confirmed, so it may arrive twice.

        Raises:
            MessageTooLargeError: It is over 8 MiB.
            UnroutableError: `mandatory` and no queue is bound, or the exchange is none that this bus knows.
            BusClosedError: The bus was stopped; the message may have arrived all the same.
        """
        await self._publisher.publish(
            self._outgoing(
                to,
                encode(body),
                kind=wire_type(body),
                persistent=persistent,
                mandatory=mandatory,
                message_id=message_id,
            )
        )

    async def publish_raw(
        self,
        to: Address,
        body: bytes,
        *,
        type_name: str,
        message_id: str | None = None,
        headers: dict[str, Any] | None = None,
        persistent: bool = True,
        mandatory: bool = True,
    ) -> None:
        """Send bytes that are encoded already, as for the replay of a dead letter; errors as for `publish`."""
        await self._publisher.publish(
            self._outgoing(
                to,
                body,
                kind=type_name,
                persistent=persistent,
                mandatory=mandatory,
                message_id=message_id,
                headers=headers,
            )
        )

    def _outgoing(
        self,
        to: Address,
        body: bytes,
        *,
        kind: str,
        persistent: bool,
        mandatory: bool,
        message_id: str | None,
        headers: dict[str, Any] | None = None,
        sender: str | None = None,
    ) -> Outgoing:
        if place := tracing.current():
            headers = {tracing.HEADER: place, **(headers or {})}
        if len(body) > BODY_LIMIT_BYTES:
            text = (
                f"{kind} of {len(body)} bytes is over the limit of {BODY_LIMIT_BYTES}: send large bytes through storage"
            )
            raise MessageTooLargeError(text)
        if to.exchange not in self._exchanges:
            # RabbitMQ would close the channel, and with it stop everything else that is in flight.
            raise UnroutableError(f"exchange {to.exchange!r} is unknown: declare a queue on it first")
        return Outgoing(
            to.exchange,
            to.key,
            body,
            kind=kind,
            message_id=message_id or f"{self._id_prefix}{next(self._ids)}",
            app_id=sender or self._app_id,
            persistent=persistent,
            mandatory=mandatory,
            headers=headers,
            confirmed=asyncio.get_running_loop().create_future(),
            since=time.monotonic(),
        )

    # --- Consuming -----------------------------------------------------------------------------

    async def consume(
        self,
        queue: Queue,
        handler: Callable[[Delivery], Awaitable[None]],
        *,
        prefetch: int = 64,
        concurrency: int = 1,
    ) -> Subscription:
        """Have a handler called for each message; with a concurrency of 1 in the order of the queue.

        Its normal return acknowledges. RejectMessage sends to the dead letters with that text. After any other
        exception it is called again a little later (the message counts as redelivered), ten times in all, then
        the message goes to the dead letters; one that takes the process with it goes there after ten deliveries.
        """
        return await self._subscribe(queue, handler, raw=False, prefetch=prefetch, concurrency=concurrency)

    async def consume_raw(
        self,
        queue: Queue,
        handler: Callable[[RawDelivery], Awaitable[None]],
        *,
        prefetch: int = 64,
        concurrency: int = 1,
    ) -> Subscription:
        """Consume without decoding, as for the dead letters; otherwise as `consume`."""
        return await self._subscribe(queue, handler, raw=True, prefetch=prefetch, concurrency=concurrency)

    async def _subscribe(
        self,
        queue: Queue,
        handler: Callable[[Any], Awaitable[None]],
        *,
        raw: bool,
        prefetch: int,
        concurrency: int,
    ) -> Subscription:
        if self._stopped:
            raise BusClosedError("the bus is stopped")
        # Declared again as long as it is consumed, and not remembered beyond: a worker consumes queues of many jobs.
        await self._control.run(partial(declare, queue=queue, known_exchanges=self._exchanges))
        self._exchanges.update(address.exchange for address in queue.addresses)
        await self._consuming.wait_up()
        subscription = Subscription(
            queue,
            handler,
            raw=raw,
            prefetch=prefetch,
            concurrency=concurrency,
            park=self._park,
            forget=self._forget,
            metrics=self._metrics,
        )
        self._subscriptions.append(subscription)
        connection = self._consuming.connection
        if connection is None:
            return subscription
        try:
            # If the connection breaks meanwhile, the link sets up every subscription on the next one.
            with suppress(LinkLostError):
                await subscription.set_up(connection)
        except TopologyError:
            await subscription.cancel()
            raise
        return subscription

    def _forget(self, subscription: Subscription) -> None:
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)

    async def _set_up_consuming(self, connection: Connection) -> None:
        subscriptions = list(self._subscriptions)
        await declare_all(connection, self._exchanges, [subscription.queue for subscription in subscriptions])
        for subscription in subscriptions:
            await subscription.set_up(connection)

    def _consuming_down(self) -> None:
        for subscription in self._subscriptions:
            subscription.down()

    async def _park(self, incoming: Incoming, queue: str, reason: str) -> None:
        message = self._outgoing(
            DEAD_LETTERS.address,
            incoming.body,
            kind=incoming.type,
            persistent=True,
            mandatory=True,
            message_id=incoming.message_id,
            headers=parking_headers(incoming, queue, reason),
            sender=incoming.app_id,
        )
        await self._publisher.publish(message)
