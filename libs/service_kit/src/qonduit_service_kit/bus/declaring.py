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


async def declare(channel: Channel, queues: Iterable[Queue]) -> None:
    """Declare queues with their exchanges and bindings; TopologyError if one exists with other arguments."""
    exchanges: set[str] = set()
    for queue in queues:
        for address in queue.addresses:
            if address.exchange not in exchanges:
                exchanges.add(address.exchange)
                await channel.declare_exchange(address.exchange, exchange_type(address.exchange))
        await channel.declare_queue(queue.name, queue.arguments())
        for address in queue.addresses:
            await channel.bind(queue.name, address.exchange, address.key)


async def declare_all(connection: Connection, exchanges: Iterable[str], queues: Iterable[Queue]) -> None:
    """Declare everything on a new connection.

    A queue that an older version made with other arguments is used as it is: it works, and refusing to start
    would help nobody.
    """
    channel = await connection.channel()
    for exchange in exchanges:
        await channel.declare_exchange(exchange, exchange_type(exchange))
    for queue in queues:
        try:
            await declare(channel, [queue])
        except TopologyError as error:
            _log.error("a queue differs from what this version declares", queue=queue.name, reason=str(error))
            channel = await connection.channel()
    await channel.close()
