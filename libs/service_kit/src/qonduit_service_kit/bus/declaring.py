"""Declaring exchanges, queues and bindings; all of it may be done again at any time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from qonduit_service_kit.bus.errors import TopologyError
from qonduit_service_kit.bus.topology import exchange_type

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qonduit_service_kit.bus.amqp import Channel, Connection
    from qonduit_service_kit.bus.topology import Queue

_log = structlog.get_logger("bus")


async def declare(channel: Channel, queue: Queue, *, known_exchanges: Iterable[str] = ()) -> None:
    """Declare a queue with its exchanges and bindings; TopologyError if it exists with other arguments."""
    for exchange in {address.exchange for address in queue.addresses}.difference(known_exchanges):
        await channel.declare_exchange(exchange, exchange_type(exchange))
    await channel.declare_queue(queue.name, queue.arguments())
    for address in queue.addresses:
        await channel.bind(queue.name, address.exchange, address.key)


async def declare_all(connection: Connection, exchanges: Iterable[str], queues: Iterable[Queue]) -> None:
    """Declare everything on a new connection.

    A queue that an older version made with other arguments is used as it is: it works, and refusing to start
    would help nobody.
    """
    channel = await connection.channel()
    known = list(exchanges)
    for exchange in known:
        await channel.declare_exchange(exchange, exchange_type(exchange))
    for queue in queues:
        try:
            await declare(channel, queue, known_exchanges=known)
        except TopologyError as error:
            _log.error("a queue differs from what this version declares", queue=queue.name, reason=str(error))
            channel = await connection.channel()
    await channel.close()
