"""Tells the gateway what is known of each task, seldom enough to cost next to nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from qonduit_service_kit.bus import BusClosedError, BusError
from qonduit_service_kit.logs import get_logger
from qonduit_service_kit.messages import GATEWAY
from qonduit_service_kit.task_pages import packed

if TYPE_CHECKING:
    from qonduit_service_kit.bus import Bus

    from qonduit_worker.tasks.records import TaskPages

_log = get_logger(__name__)

PAUSE_S = 0.5
"""Changes within this time are told together."""


class PageTeller:
    """Publishes the pages that have changed, at most once a pause."""

    def __init__(self, bus: Bus, pages: TaskPages) -> None:
        self._bus = bus
        self._pages = pages
        self._changed = asyncio.Event()
        self._teller = asyncio.create_task(self._tell())

    def changed(self) -> None:
        """Have the changed pages told soon."""
        self._changed.set()

    async def flush(self) -> None:
        """Tell what was not told yet, and return once RabbitMQ has it."""
        try:
            await asyncio.gather(*(self._bus.publish(GATEWAY, packed(page)) for page in self._pages.due()))
        except BusError as error:
            # A record that is out of date misleads nobody for long: the job's own end is told by an event.
            _log.warning("tasks_not_told", reason=str(error))

    async def stop(self) -> None:
        """End; safe to call twice."""
        self._teller.cancel()
        await asyncio.gather(self._teller, return_exceptions=True)

    async def _tell(self) -> None:
        while True:
            await self._changed.wait()
            await asyncio.sleep(PAUSE_S)
            self._changed.clear()
            try:
                await self.flush()
            except BusClosedError:
                return
