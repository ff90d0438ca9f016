"""Tells the scheduler when a driver or an executor waits for tasks and lends its cpu."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from qonduit_service_kit.bus import BusError
from qonduit_service_kit.logs import get_logger
from qonduit_service_kit.messages import SCHEDULER, DriverWaiting

if TYPE_CHECKING:
    from qonduit_service_kit.bus import Bus

PAUSE_S: Final = 0.02
"""What changes within this time is told as one: a program that looks again and again floods nobody."""
_log = get_logger(__name__)


class Lending:
    """One lease's word about its waiting: the newest one counts, and what is no news is not told."""

    def __init__(self, bus: Bus, worker_id: str, lease_id: str) -> None:
        self._bus = bus
        self._worker_id = worker_id
        self._lease_id = lease_id
        self._sequence = 0
        self._told = False
        self._telling: asyncio.Task[None] | None = None
        self.lends = False

    def set(self, lends: bool) -> None:  # noqa: FBT001 - It is the fact that is told.
        """Note that it waits, or goes on."""
        self.lends = lends
        if self._telling is None and lends != self._told:
            self._telling = asyncio.create_task(self._tell())

    async def stop(self) -> None:
        """End; safe to call twice."""
        if self._telling is not None:
            self._telling.cancel()
            await asyncio.wait([self._telling])

    async def _tell(self) -> None:
        try:
            while self.lends != self._told:
                self._told = self.lends
                self._sequence += 1
                await self._bus.publish(
                    SCHEDULER, DriverWaiting(self._worker_id, self._lease_id, self._told, self._sequence)
                )
                await asyncio.sleep(PAUSE_S)
        except BusError as error:
            # The next heartbeat tells it, too.
            _log.warning("waiting_not_told", lease=self._lease_id, reason=str(error))
        finally:
            self._telling = None
