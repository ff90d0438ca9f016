"""The scheduler's core: events in, commands out. No I/O, no clock; the same events give the same commands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from qonduit_service_kit.messages import (
    ALL_WORKERS,
    GATEWAY,
    DriverWaiting,
    JobSpec,
    JobSubmitted,
    JobWithdrawn,
    LeaseEnded,
    RunningAttempt,
    SchedulerElected,
    TaskDemand,
    UserLimited,
    WorkerHeartbeat,
    WorkerStopped,
)

from qonduit_scheduler import attempts, upkeep, workers
from qonduit_scheduler.picture import Picture, Send, Tally
from qonduit_scheduler.placement import place_all
from qonduit_scheduler.report import cluster_reports

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from qonduit_scheduler.policy import PolicySettings


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All jobs that aren't over, as the gateway knew them when it gave this term."""

    term: int
    queued: tuple[JobSpec, ...] = ()
    running: tuple[RunningAttempt, ...] = ()


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class Undeliverable:
    """A command for a worker whose inbox doesn't exist."""

    worker_id: str
    body: object


Event: TypeAlias = (
    JobSubmitted
    | JobWithdrawn
    | WorkerHeartbeat
    | WorkerStopped
    | LeaseEnded
    | TaskDemand
    | DriverWaiting
    | UserLimited
    | Tick
    | Undeliverable
)

CONSUMED: Final = (
    JobSubmitted,
    JobWithdrawn,
    WorkerHeartbeat,
    WorkerStopped,
    LeaseEnded,
    TaskDemand,
    DriverWaiting,
    UserLimited,
)
"""The messages among the events."""


class Core:
    """One term of leadership, from the gateway's snapshot on.

    `now` is seconds since the epoch and never goes back. Events may come twice, late, and in any order
    between senders; what that must not change is said where each is handled.
    """

    def __init__(self, settings: PolicySettings, snapshot: Snapshot, now: float) -> None:
        self.picture = Picture(settings, snapshot.term, now)
        self._reported_at = float("-inf")
        self._fleet_checked = -1
        for running in snapshot.running:
            attempts.expect(self.picture, running, now)
        for spec in snapshot.queued:
            attempts.submit(self.picture, spec, now, hold_back=True)

    def begin(self, early: Iterable[Event], now: float) -> list[Send]:
        """Call the workers, apply what arrived before the snapshot was complete, return commands.

        A submission among `early` may have been placed by an earlier leader that died before it
        acknowledged it, so it is held back like the queued attempts of the snapshot.
        """
        self.picture.send(ALL_WORKERS, SchedulerElected(self.picture.term))
        for event in early:
            self._apply(event, now, early=True)
        return self._finish(now)

    def handle(self, event: Event, now: float) -> list[Send]:
        """Apply one event and return the commands that follow, in the order they must reach each receiver."""
        self._apply(event, now, early=False)
        return self._finish(now)

    def _apply(self, event: Event, now: float, *, early: bool) -> None:
        picture = self.picture
        if isinstance(event, JobSubmitted):
            attempts.submit(picture, event.spec, now, hold_back=early)
        elif isinstance(event, Tick):
            upkeep.tick(picture, now)
        elif isinstance(event, Undeliverable):
            workers.undeliverable(picture, event.worker_id, event.body, now)
        else:
            _HANDLERS[type(event)](picture, event, now)

    def _finish(self, now: float) -> list[Send]:
        picture = self.picture
        if self._fleet_checked != picture.fleet.capacity_changes:
            self._fleet_checked = picture.fleet.capacity_changes
            upkeep.refuse_impossible(picture, now)
        place_all(picture, now)
        quiet_s = now - self._reported_at
        if quiet_s >= picture.settings.report_quiet_s or (picture.changed and quiet_s >= picture.settings.report_s):
            self._reported_at, picture.changed = now, False
            for page in cluster_reports(picture, now):
                picture.send(GATEWAY, page)
        commands, picture.commands = picture.commands, []
        return commands

    def take_tally(self) -> Tally:
        """Return what was counted since the last call."""
        tally, self.picture.tally = self.picture.tally, Tally()
        return tally


_HANDLERS: dict[type, Callable[[Picture, Any, float], None]] = {
    JobWithdrawn: attempts.withdraw,
    WorkerHeartbeat: workers.heartbeat,
    WorkerStopped: workers.stopped,
    LeaseEnded: workers.lease_ended,
    TaskDemand: attempts.demand,
    DriverWaiting: workers.driver_waiting,
    UserLimited: attempts.limit_user,
}
