"""Declaring, deleting and asking, on a channel kept for it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from qonduit_service_kit.bus.backoff import backoff_s
from qonduit_service_kit.bus.errors import LinkLostError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from qonduit_service_kit.bus.amqp import Channel
    from qonduit_service_kit.bus.link import Link

T = TypeVar("T")


class Control:
    """One request at a time, again if the connection breaks meanwhile.

    It uses the consumers' connection: RabbitMQ answers nothing on one whose publishers it blocks.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._channel: Channel | None = None
        self._turn = asyncio.Lock()

    async def run(self, work: Callable[[Channel], Awaitable[T]]) -> T:
        """Return what `work` does on an open channel.

        Raises:
            TopologyError: RabbitMQ refused it.
            BusClosedError: The bus was stopped.
        """
        async with self._turn:
            failures = 0
            while True:
                await self._link.wait_up()
                try:
                    return await work(await self._open())
                except LinkLostError:
                    await asyncio.sleep(backoff_s(failures))
                    failures += 1

    async def _open(self) -> Channel:
        """Return the channel, or a new one if a refusal or a lost connection closed it."""
        if self._channel is None or not self._channel.is_open:
            connection = self._link.connection
            if connection is None:
                raise LinkLostError("not connected")
            self._channel = await connection.channel()
        return self._channel
