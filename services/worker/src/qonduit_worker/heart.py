"""Heartbeats: the whole truth about this worker, now and then and whenever it changes; and the watch over them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from typing import TYPE_CHECKING, Final

from qonduit_service_kit.bus import UnroutableError
from qonduit_service_kit.logs import get_logger
from qonduit_service_kit.messages import SCHEDULER, LeaseKind, WorkerHeartbeat

from qonduit_worker import metrics

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from qonduit_service_kit.messages import LeaseStatus

    from qonduit_worker.leases import LeaseTable
    from qonduit_worker.workshop import Workshop

_LOOKS_A_LEASE: Final = 30
"""How often in a lease's life the watch looks whether it still holds."""
_LOOK_S: Final = 0.5
"""The watch looks at least this often."""

_log = get_logger(__name__)


class Heart:
    """Sends heartbeats, and fences this worker off when nobody can have heard them for a lease's life."""

    def __init__(
        self,
        workshop: Workshop,
        leases: LeaseTable,
        *,
        sandbox_tier: str,
        refresh: Callable[[], None],
        fence: Callable[[str], Awaitable[None]],
        reconnected: Callable[[], Awaitable[None]],
    ) -> None:
        self._shop = workshop
        self._leases = leases
        self._tier = sandbox_tier
        self._refresh = refresh
        self._fence = fence
        self._reconnected = reconnected
        self._sequence = 0
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def changed(self) -> None:
        """Have the next heartbeat sent at once."""
        self._changed.set()

    async def start(self) -> None:
        """Begin, with a first heartbeat."""
        self._changed.set()
        self._tasks = [asyncio.create_task(self._beat()), asyncio.create_task(self._watch())]

    async def stop(self) -> None:
        """End; safe to call twice."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _beat(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), self._shop.settings.heartbeat_s)
            await self.beat()

    async def beat(self) -> None:
        """Send a heartbeat now; what is published after it arrives after it."""
        self._changed.clear()
        try:
            await self._shop.bus.publish(SCHEDULER, self._heartbeat())
        except UnroutableError:
            _log.warning("scheduler_has_no_inbox")

    def _heartbeat(self) -> WorkerHeartbeat:
        self._refresh()
        self._sequence += 1
        leases = self._leases.statuses()
        _publish_metrics(leases, self._shop)
        return WorkerHeartbeat(
            worker_id=self._shop.worker_id,
            incarnation=self._leases.incarnation,
            sequence=self._sequence,
            capacity=self._shop.settings.capacity,
            leases=leases,
            draining=self._leases.draining,
            sandbox_tier=self._tier,
            hostname=socket.gethostname(),
            term=self._leases.term,
        )

    async def _watch(self) -> None:
        """Look whether RabbitMQ still takes heartbeats, and whether this process was itself stopped for long."""
        ttl = self._shop.settings.lease_ttl_s
        begun = looked = time.monotonic()
        made = self._shop.bus.connections_made
        while True:
            await asyncio.sleep(min(ttl / _LOOKS_A_LEASE, _LOOK_S))
            # Counted, as this process may have been too busy to look while RabbitMQ was away.
            if self._shop.bus.connected and made != self._shop.bus.connections_made:
                made = self._shop.bus.connections_made
                await self._reconnected()
            now = time.monotonic()
            silent_s = now - max(self._shop.bus.last_confirm_at, begun)
            if now - looked > ttl:
                await self._fence(f"this process stood still for {now - looked:.0f} s")
                begun = now
            elif silent_s > ttl:
                await self._fence(f"RabbitMQ has taken nothing for {silent_s:.0f} s")
                begun = now
            looked = now


def _publish_metrics(leases: tuple[LeaseStatus, ...], shop: Workshop) -> None:
    for kind in LeaseKind:
        metrics.LEASES.labels(kind.value).set(sum(lease.kind is kind for lease in leases))
    capacity = shop.settings.capacity
    metrics.CAPACITY_CPU.set(capacity.cpu_millis / 1000)
    metrics.CAPACITY_MEM.set(capacity.mem_bytes)
    metrics.USED_CPU.set(sum(lease.shape.cpu_millis for lease in leases if not lease.lends_cpu) / 1000)
    metrics.USED_MEM.set(sum(lease.shape.mem_bytes for lease in leases))
