"""The scheduler's whole state, and the steps that keep its parts agreeing with each other.

Everything else in the core reads this picture and changes it through these steps only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from qonduit_service_kit import messages
from qonduit_service_kit.messages import Address, JobSpec, LeaseKind, Shape, TaskDemand

from qonduit_scheduler.fairness import Fairness
from qonduit_scheduler.fleet import Fleet, Lease, Worker
from qonduit_scheduler.memory import Memory
from qonduit_scheduler.prediction import RunTimes, TaskHabits
from qonduit_scheduler.running import RunningJobs
from qonduit_scheduler.shapes import NOTHING, add, fits, subtract, times_in
from qonduit_scheduler.waiting import Entry, EntryKey, WaitingLine

if TYPE_CHECKING:
    from qonduit_scheduler.policy import PolicySettings

_REMEMBERED: Final = 100_000


@dataclass(frozen=True, slots=True)
class Send:
    """A command: put this message at this address."""

    to: Address
    body: object


class Phase(Enum):
    """Where an attempt stands."""

    QUEUED = auto()
    EXPECTED = auto()
    """The gateway believes it to run; its worker hasn't confirmed that since the takeover."""
    PLACED = auto()


@dataclass(slots=True)
class Demand:
    """An attempt's wish for executors of one shape."""

    message: TaskDemand
    task_s: float = 0.0
    """Predicted run time of its next task."""
    holds_s: float = math.inf
    """The same, infinite where nothing of the user is known."""
    held: int = 0
    """Executors of this shape that can take another task: not being taken back, not waiting inside a task."""
    lending: int = 0
    """Executors that wait inside a task for other tasks. That one is unfinished, and needs no other executor."""
    entry: Entry | None = None
    at_limit_since: float = 0.0
    """Since when it is kept from wanting more by its job's limit; only while it is."""

    @property
    def runnable(self) -> int:
        """Unfinished tasks that run or could: all but those that wait for others."""
        return max(0, self.message.unfinished - self.lending)

    @property
    def missing(self) -> int:
        """Executors that it wants more; negative if it could do without some."""
        return self.runnable - self.held

    @property
    def expected_s(self) -> float:
        """Predicted time for all unfinished tasks, with as many executors as the job's limit allows for them alone."""
        tasks = self.runnable
        return self.task_s * tasks / max(1, min(tasks, times_in(self.message.shape, self.message.limit)))


@dataclass(slots=True)
class Attempt:
    """The current attempt of a job that isn't over."""

    spec: JobSpec
    phase: Phase
    fresh: bool = False
    """First heard of in this term: no earlier leader can have placed any of it."""
    entry: Entry | None = None
    driver: Lease | None = None
    expected_on: str = ""
    expected_until: float = 0.0
    executors: dict[str, Lease] = field(default_factory=dict)
    executors_use: Shape = NOTHING
    demands: dict[Shape, Demand] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reservation:
    """A worker kept free for an entry."""

    key: EntryKey
    user: str
    shape: Shape
    worker_id: str
    since: float
    head: bool
    """As it is among the most urgent, not because a user was asked to yield to it: it may move to another worker."""
    strict_at: float = float("-inf")
    """From then on nothing is trusted to end in time: only what fits beside for ever may go there."""


@dataclass(frozen=True, slots=True)
class MissedExecutor:
    """An executor that a driver's agent told of and no worker has reported yet."""

    job_id: str
    attempt: int
    worker_id: str
    until: float


@dataclass(frozen=True, slots=True)
class Unanswered:
    """What the gateway must hear of an attempt that is over here, until it says that it is over there too."""

    body: messages.AttemptLost | messages.PlacementRefused
    tell_at: float
    told: int
    """How often it was told so far."""


@dataclass(slots=True)
class Tally:
    """Counts for the metrics; the core never reads them."""

    placements: dict[LeaseKind, int] = field(default_factory=lambda: dict.fromkeys(LeaseKind, 0))
    waits_s: list[tuple[LeaseKind, float]] = field(default_factory=list)
    refusals: int = 0
    attempts_lost: int = 0
    executors_lost: int = 0


class Picture:
    """Jobs, workers, leases and what waits, as known in one term of leadership."""

    def __init__(self, settings: PolicySettings, term: int, now: float) -> None:
        self.settings = settings
        self.term = term
        self.settles_at = now + settings.settle_s
        self.settled = False
        self.attempts: dict[str, Attempt] = {}
        self.expected: dict[str, Attempt] = {}
        self.fleet = Fleet()
        self.fairness = Fairness()
        self.run_times = RunTimes(settings.unknown_s)
        self.habits = TaskHabits()
        self.line = WaitingLine()
        self.running = RunningJobs()
        self.hope: dict[Shape, list[str] | None] = {}
        """Waiting shapes that may fit now: on these workers, or (None) anywhere. Others are known not to fit."""
        self.reservations: dict[str, Reservation] = {}
        """By worker."""
        self.reserved_for: dict[EntryKey, Reservation] = {}
        self.kept_at = now
        self.at_limit: dict[tuple[str, Shape], Demand] = {}
        """By job and shape: what wants executors beyond its job's limit."""
        self.missed: dict[str, MissedExecutor] = {}
        self.unanswered: dict[str, Unanswered] = {}
        """By job."""
        self.with_executors: dict[str, Attempt] = {}
        self.executors_of: dict[str, dict[str, Lease]] = {}
        self.closed: Memory[str, int] = Memory(_REMEMBERED)
        """Job id to its highest attempt that is over: a late submission of it is dropped."""
        self.ended: Memory[str, None] = Memory(_REMEMBERED)
        self.retired: Memory[tuple[str, str], None] = Memory(_REMEMBERED)
        """(worker, incarnation) pairs that are gone for good."""
        self.commands: list[Send] = []
        self.tally = Tally()
        self.changed = True
        self._leases_granted = 0

    # --- Commands ---

    def send(self, to: Address, body: object) -> None:
        """Add a command."""
        self.commands.append(Send(to, body))

    def tell_worker(self, worker_id: str, body: object) -> None:
        """Add a command for one worker."""
        self.send(messages.worker(worker_id), body)

    def next_lease_id(self) -> str:
        """Return an id that no other lease of any term has."""
        self._leases_granted += 1
        return f"{self.term}-{self._leases_granted}"

    # --- The line ---

    def enter(self, entry: Entry) -> None:
        """Let an entry wait."""
        known = self.line.has_shape(entry.shape)
        self.line.add(entry)
        if not self.line.is_held(entry):
            self._hope_anew(entry.shape, known=known)
        self.fairness.start_waiting(entry.user)
        self.changed = True

    def withdraw(self, entry: Entry) -> None:
        """Let an entry no longer wait."""
        self.line.remove(entry.key)
        if entry.user not in self.line.lanes:
            self.fairness.stop_waiting(entry.user)
        if not self.line.has_shape(entry.shape):
            self.hope.pop(entry.shape, None)
        if entry.key in self.reserved_for:
            self.drop_reservation(self.reserved_for[entry.key])
        self.changed = True

    def move(self, entry: Entry, key: EntryKey, work_ms: int) -> None:
        """Give a waiting entry another place in its user's order, as its work changed; its reservation stays."""
        reservation = self.reserved_for.pop(entry.key, None)
        self.line.remove(entry.key)
        entry.key, entry.work_ms = key, work_ms
        self.line.add(entry)
        if reservation is not None:
            self.reserve(replace(reservation, key=key))

    def reserve(self, reservation: Reservation) -> None:
        """Keep a worker free for an entry; neither has a reservation yet."""
        self.reservations[reservation.worker_id] = reservation
        self.reserved_for[reservation.key] = reservation

    def drop_reservation(self, reservation: Reservation) -> None:
        """Give the reserved worker's room to everybody again."""
        if self.reserved_for.pop(reservation.key, None) is None:
            return
        del self.reservations[reservation.worker_id]
        worker = self.fleet.workers.get(reservation.worker_id)
        if worker is not None:
            self.grew(worker)

    def grew(self, worker: Worker) -> None:
        """Note that a worker may fit shapes that it didn't fit before."""
        if worker.is_open:
            for shape in self.line.shapes_up_to(worker.free.cpu_millis):
                self._hope_for(shape, worker)

    def _hope_for(self, shape: Shape, worker: Worker) -> None:
        if fits(shape, worker.free):
            hoped = self.hope.setdefault(shape, [])
            if hoped is not None and worker.worker_id not in hoped:
                hoped.append(worker.worker_id)

    def _hope_anew(self, shape: Shape, *, known: bool) -> None:
        """Note that something of a shape waits for room from now on; `known` if something of it did before."""
        if not known:
            self.hope[shape] = None
            return
        # Its shape is known not to fit, unless it is short enough for a worker that is kept for another.
        for worker_id in self.reservations:
            self._hope_for(shape, self.fleet.workers[worker_id])

    # --- Users' running jobs ---

    def limit_running(self, user: str, most: int | None) -> None:
        """Set how many jobs of a user may have a place at a time; None for no limit. What has one keeps it."""
        self.running.set_most(user, most)
        self._hold_if_full(user)

    def take_place(self, user: str, place: str) -> None:
        """Count a place for one of a user's jobs; if it is the last, the others of them no longer wait for room."""
        self.running.take(user, place)
        self._hold_if_full(user)

    def _hold_if_full(self, user: str) -> None:
        if user in self.line.held or not self.running.full(user):
            return
        self.line.hold(user)
        for reservation in list(self.reservations.values()):
            if reservation.user == user and self.line.is_held(self.line.entries[reservation.key]):
                self.drop_reservation(reservation)
        for shape in self.line.lanes.get(user, ()):
            if not self.line.has_shape(shape):
                self.hope.pop(shape, None)
        self.changed = True

    def admit_again(self, now: float) -> None:
        """Let the drivers of users wait for room whose jobs may have a place again."""
        freed, self.running.freed = self.running.freed, {}
        for user in freed:
            if user not in self.line.held or self.running.full(user):
                continue
            lanes = self.line.lanes.get(user, {})
            known = {shape: self.line.has_shape(shape) for shape, lane in lanes.items() if lane.drivers}
            self.line.admit(user, now)
            for shape, was_known in known.items():
                self._hope_anew(shape, known=was_known)
            self.changed = True

    # --- Leases ---

    def attach(self, lease: Lease) -> None:
        """Count a lease on its worker, for its user, and for its attempt if that is current."""
        worker = self.fleet.workers[lease.worker_id]
        worker.leases[lease.lease_id] = lease
        self.fleet.hold(worker, lease.held)
        self.fairness.take(lease.user, lease.held)
        if lease.kind is LeaseKind.EXECUTOR:
            self.executors_of.setdefault(lease.user, {})[lease.lease_id] = lease
        else:
            self.running.take(lease.user, lease.lease_id)
        attempt = self.attempt_of(lease)
        if attempt is not None and lease.kind is LeaseKind.EXECUTOR:
            attempt.executors[lease.lease_id] = lease
            self.with_executors[lease.job_id] = attempt
            attempt.executors_use = add(attempt.executors_use, lease.held)
            self._count(attempt, lease, 1)
        elif attempt is not None:
            attempt.driver, attempt.phase = lease, Phase.PLACED
            self.expected.pop(lease.job_id, None)
            self.running.give_back(lease.user, lease.job_id)
        self._hold_if_full(lease.user)
        self.changed = True

    def release(self, lease: Lease) -> None:
        """Forget a lease that has ended, and free what it held."""
        worker = self.fleet.workers[lease.worker_id]
        del worker.leases[lease.lease_id]
        self.ended.remember(lease.lease_id, None)
        self.fleet.free(worker, lease.held)
        self.fairness.give_back(lease.user, lease.held)
        if lease.kind is LeaseKind.EXECUTOR:
            theirs = self.executors_of[lease.user]
            del theirs[lease.lease_id]
            if not theirs:
                del self.executors_of[lease.user]
        else:
            self.running.give_back(lease.user, lease.lease_id)
        attempt = self.attempt_of(lease)
        if attempt is not None and attempt.executors.pop(lease.lease_id, None) is not None:
            attempt.executors_use = subtract(attempt.executors_use, lease.held)
            if not attempt.executors:
                del self.with_executors[lease.job_id]
            self._count(attempt, lease, -1)
        self.grew(worker)
        self.changed = True

    def revoke(self, lease: Lease, now: float, cause: str, *, at_once: bool) -> None:
        """Ask a lease's worker to give it back; what it holds stays counted until it has ended."""
        attempt = self.attempt_of(lease)
        counted = attempt if attempt is not None and lease.lease_id in attempt.executors else None
        if counted is not None:
            self._count(counted, lease, -1)
        lease.revoked_at = now
        if counted is not None:
            self._count(counted, lease, 1)
        lease.revoked_now = lease.revoked_now or at_once
        body = messages.LeaseRevoked(self.term, lease.lease_id, cause, now=lease.revoked_now)
        self.tell_worker(lease.worker_id, body)
        self.changed = True

    def lend(self, lease: Lease, *, lends: bool) -> None:
        """Set whether a driver or an executor lends its cpu while it waits.

        Taking it back may overdraw the worker, and the job's limit, until others end.
        """
        if lease.lends_cpu == lends:
            return
        worker = self.fleet.workers[lease.worker_id]
        attempt = self.attempt_of(lease)
        counted = attempt if attempt is not None and lease.lease_id in attempt.executors else None
        if counted is not None:
            counted.executors_use = subtract(counted.executors_use, lease.held)
            self._count(counted, lease, -1)
        self.fleet.free(worker, lease.held)
        self.fairness.give_back(lease.user, lease.held)
        lease.lends_cpu = lends
        self.fleet.hold(worker, lease.held)
        self.fairness.take(lease.user, lease.held)
        if counted is not None:
            counted.executors_use = add(counted.executors_use, lease.held)
            self._count(counted, lease, 1)
        self.grew(worker)
        self.changed = True

    def attempt_of(self, lease: Lease) -> Attempt | None:
        """Return the attempt a lease belongs to, or None if that is over."""
        if lease.orphan:
            return None
        attempt = self.attempts.get(lease.job_id)
        return attempt if attempt is not None and attempt.spec.attempt == lease.attempt else None

    def _count(self, attempt: Attempt, lease: Lease, change: int) -> None:
        demand = attempt.demands.get(lease.shape)
        if demand is not None and lease.serves:
            demand.held += change
        elif demand is not None and lease.lends_cpu:
            demand.lending += change
