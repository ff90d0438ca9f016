"""The shell: the inbox's messages and the clock into the core, its commands onto the bus."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from qonduit_service_kit.bus import SCHEDULER_INBOX, Bus, BusClosedError, Delivery, RejectMessage, UnroutableError
from qonduit_service_kit.logs import get_logger
from qonduit_service_kit.messages import (
    WORKERS_EXCHANGE,
    AttemptLost,
    ClusterReport,
    DemandRefused,
    DriverGranted,
    ExecutorLost,
    JobsSnapshot,
    PlacementRefused,
    SchedulerHello,
    SchedulerProbe,
)

from qonduit_scheduler.core import CONSUMED, Undeliverable
from qonduit_scheduler.leadership import Leadership, Role

if TYPE_CHECKING:
    from collections.abc import Callable

    from qonduit_service_kit.bus import Subscription

    from qonduit_scheduler.metrics import SchedulerMetrics
    from qonduit_scheduler.picture import Send

_ACCEPTED: Final = (*CONSUMED, JobsSnapshot, SchedulerProbe)
_REPEATED: Final = (ClusterReport, SchedulerHello, SchedulerProbe)
"""Sent again and again, so that none needs to survive the broker."""
_PREFETCH: Final = 256
_MEASURE_S: Final = 1.0
_log = get_logger("scheduler")


def steady_clock() -> Callable[[], float]:
    """Return a clock of seconds since the epoch that never goes back, whatever happens to the machine's time."""
    offset = time.time() - time.monotonic()
    return lambda: time.monotonic() + offset


class SchedulerService:
    """Consumes the scheduler's inbox and ticks; one event at a time, its commands confirmed before the next."""

    def __init__(self, bus: Bus, leadership: Leadership, metrics: SchedulerMetrics, *, tick_s: float) -> None:
        self._bus = bus
        self._leadership = leadership
        self._metrics = metrics
        self._tick_s = tick_s
        self._clock = steady_clock()
        self._one_at_a_time = asyncio.Lock()
        self._subscription: Subscription | None = None
        self._role = Role.STANDBY
        self._connections_made = 0

    async def start(self) -> None:
        """Begin to consume; whether this scheduler is active shows once a message comes."""
        self._connections_made = self._bus.connections_made
        self._subscription = await self._bus.consume(SCHEDULER_INBOX, self._on_delivery, prefetch=_PREFETCH)

    async def stop(self) -> None:
        """Leave the inbox to a standby; safe to call twice."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await subscription.cancel()

    async def run(self) -> None:
        """Tick for ever."""
        measured_at = float("-inf")
        while True:
            async with self._one_at_a_time:
                now = self._clock()
                # A loss counts also if it is over: a publish may have waited for the connection to come back.
                before, self._connections_made = self._connections_made, self._bus.connections_made
                connected = self._bus.connected and self._connections_made == before
                with self._metrics.decision.labels("tick").time():
                    commands = self._leadership.tick(now, connected=connected)
                await self._publish(commands)
                self._tell_role()
            if now - measured_at >= _MEASURE_S:
                measured_at = now
                self._metrics.observe(self._leadership, now)
            await asyncio.sleep(self._tick_s)

    async def _on_delivery(self, delivery: Delivery) -> None:
        message = delivery.message
        if not isinstance(message, _ACCEPTED):
            raise RejectMessage(f"the scheduler takes no {type(message).__name__}")
        async with self._one_at_a_time:
            try:
                with self._metrics.decision.labels(type(message).__name__).time():
                    commands = self._leadership.received(message, self._clock())
            except Exception:
                # Half an event may have been applied: only a fresh picture can be trusted.
                self._leadership.step_down()
                raise
            await self._publish(commands)
            self._leadership.handled(self._clock())
            self._tell_role()

    async def _publish(self, commands: list[Send]) -> None:
        """Send all commands side by side, those for one receiver in their order."""
        while commands:
            lanes: dict[object, list[Send]] = {}
            for command in commands:
                _tell(command.body)
                lanes.setdefault(command.to, []).append(command)
            undelivered = await asyncio.gather(*(self._publish_lane(lane) for lane in lanes.values()))
            commands = []
            for command in (command for lane in undelivered for command in lane):
                event = Undeliverable(command.to.key, command.body)
                commands += self._leadership.undeliverable(event, self._clock())

    async def _publish_lane(self, lane: list[Send]) -> list[Send]:
        """Publish in order, pipelined; return what has no queue and was meant for one worker."""
        results = await asyncio.gather(
            *(self._bus.publish(one.to, one.body, persistent=not isinstance(one.body, _REPEATED)) for one in lane),
            return_exceptions=True,
        )
        undelivered: list[Send] = []
        for command, result in zip(lane, results, strict=True):
            if isinstance(result, UnroutableError):
                if command.to.exchange == WORKERS_EXCHANGE:
                    undelivered.append(command)
            elif isinstance(result, BaseException) and not isinstance(result, BusClosedError):
                raise result
        return undelivered

    def _tell_role(self) -> None:
        self._metrics.tell_role(self._leadership)
        role = self._leadership.role
        if role is not self._role:
            self._role = role
            _log.info(f"now {role.name.lower()}", term=self._leadership.term)


def _tell(body: object) -> None:
    """Log what a person would want to know of a command."""
    match body:
        case DriverGranted(lease_id=lease_id, spec=spec):
            _log.info("placed job", job=spec.job_id, attempt=spec.attempt, lease=lease_id)
        case PlacementRefused() | DemandRefused():
            _log.warning("refused", job=body.job_id, attempt=body.attempt, why=body.text)
        case AttemptLost():
            _log.warning("attempt lost", job=body.job_id, attempt=body.attempt, why=body.text)
        case ExecutorLost():
            _log.warning("executor lost", job=body.job_id, attempt=body.attempt, lease=body.lease_id, why=body.cause)
        case _:
            pass
