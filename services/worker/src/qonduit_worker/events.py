"""An attempt's events on their way to the gateway: numbered, in order, until RabbitMQ has each."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

from qonduit_service_kit.bus import UnroutableError
from qonduit_service_kit.logs import get_logger
from qonduit_service_kit.messages import GATEWAY, EventKind, JobEvent

from qonduit_worker import metrics

if TYPE_CHECKING:
    from qonduit_service_kit.bus import Bus

_PAUSE_S: Final = 0.5

_log = get_logger(__name__)


class EventOutbox:
    """The only writer of one attempt's sequence."""

    def __init__(self, bus: Bus, *, job_id: str, attempt: int, worker_id: str) -> None:
        self._bus = bus
        self._job_id = job_id
        self._attempt = attempt
        self._worker_id = worker_id
        self._sequence = 0
        self._waiting: asyncio.Queue[JobEvent] = asyncio.Queue()
        self._sender = asyncio.create_task(self._send())

    def emit(self, kind: EventKind, **fields: Any) -> None:
        """Queue an event; a mere report of usage is left out while others wait."""
        if kind is EventKind.USAGE and not self._waiting.empty():
            return
        self._sequence += 1
        self._waiting.put_nowait(
            JobEvent(
                job_id=self._job_id,
                attempt=self._attempt,
                sequence=self._sequence,
                at=time.time(),
                worker_id=self._worker_id,
                kind=kind,
                **fields,
            )
        )
        metrics.EVENTS_WAITING.inc()

    async def flush(self) -> None:
        """Wait until every event is confirmed."""
        await self._waiting.join()

    async def close(self) -> None:
        """Drop what was not sent; safe to call twice."""
        self._sender.cancel()
        await asyncio.wait([self._sender])
        metrics.EVENTS_WAITING.dec(self._waiting.qsize())
        self._waiting = asyncio.Queue()

    async def _send(self) -> None:
        while True:
            event = await self._waiting.get()
            await self._publish(event)
            metrics.EVENTS_WAITING.dec()
            self._waiting.task_done()

    async def _publish(self, event: JobEvent) -> None:
        # The id is the same each time, and the gateway drops what it has: sending again is safe.
        message_id = f"{event.job_id}.{event.attempt}.{event.sequence}"
        while True:
            try:
                await self._bus.publish(GATEWAY, event, message_id=message_id)
            except UnroutableError:
                _log.warning("gateway_has_no_inbox", job=event.job_id)
                await asyncio.sleep(_PAUSE_S)
            else:
                return
