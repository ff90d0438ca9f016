"""The leases that this worker holds, and which grants it takes: pure bookkeeping, no I/O."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, TypeVar

from qonduit_service_kit.messages import DriverGranted, ExecutorGranted, LeaseKind, LeaseStatus, Reason

if TYPE_CHECKING:
    from qonduit_service_kit.messages import Shape

Key = TypeVar("Key")
Value = TypeVar("Value")

_REMEMBERED: Final = 4096
"""Ended leases, ended and stopped attempts that are still known by name, so that late messages are told apart."""
_NEVER: Final = (-1, Reason.NONE)


class Admission(Enum):
    """What becomes of a grant."""

    ACCEPTED = "accepted"
    OTHER_LIFE = "for an earlier life of this worker"
    OLD_TERM = "from a scheduler that is no longer the active one"
    KNOWN = "a repeated grant"
    ATTEMPT_TAKEN = "its attempt runs, or ran, under another lease"
    ATTEMPT_STOPPED = "its attempt was stopped before it came"
    DRAINING = "this worker takes nothing new"


@dataclass(slots=True)
class Lease:
    """One lease in force."""

    lease_id: str
    kind: LeaseKind
    job_id: str
    attempt: int
    shape: Shape
    user: str
    idle_since: float | None = None
    lends_cpu: bool = False

    @property
    def status(self) -> LeaseStatus:
        """The lease as a heartbeat tells it."""
        return LeaseStatus(
            lease_id=self.lease_id,
            kind=self.kind,
            job_id=self.job_id,
            attempt=self.attempt,
            shape=self.shape,
            user=self.user,
            idle_since=self.idle_since,
            lends_cpu=self.lends_cpu,
        )


class LeaseTable:
    """All leases of one incarnation, and the highest term of leadership seen."""

    def __init__(self, incarnation: str) -> None:
        self.term = 0
        self.draining = False
        """Whether new leases are refused."""
        self.begin_anew(incarnation)

    def begin_anew(self, incarnation: str) -> None:
        """Hold nothing, under a new name; the term of leadership and an order to drain stay."""
        self.incarnation = incarnation
        self._leases: dict[str, Lease] = {}
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._drivers: OrderedDict[tuple[str, int], str] = OrderedDict()
        self._stopped: OrderedDict[str, tuple[int, Reason]] = OrderedDict()

    def saw_term(self, term: int) -> None:
        """Refuse older terms than this from now on."""
        self.term = max(self.term, term)

    def admit(self, grant: DriverGranted | ExecutorGranted) -> Admission:
        """Take a grant, or say why not; a grant that is taken is a lease at once."""
        if grant.incarnation not in {"", self.incarnation}:
            return Admission.OTHER_LIFE
        if grant.term < self.term:
            return Admission.OLD_TERM
        self.saw_term(grant.term)
        if grant.lease_id in self._leases or grant.lease_id in self._ended:
            return Admission.KNOWN
        return self._admit(_lease(grant))

    def _admit(self, lease: Lease) -> Admission:
        if lease.attempt <= self._stopped.get(lease.job_id, _NEVER)[0]:
            return Admission.ATTEMPT_STOPPED
        if self.draining:
            return Admission.DRAINING
        if lease.kind is LeaseKind.DRIVER:
            if (lease.job_id, lease.attempt) in self._drivers:
                return Admission.ATTEMPT_TAKEN
            _remember(self._drivers, (lease.job_id, lease.attempt), lease.lease_id)
        self._leases[lease.lease_id] = lease
        return Admission.ACCEPTED

    def stop(self, job_id: str, attempt: int, cause: Reason) -> None:
        """Remember that this attempt, and all before it, may not start any more."""
        if attempt > self._stopped.get(job_id, _NEVER)[0]:
            _remember(self._stopped, job_id, (attempt, cause))

    def stop_cause(self, job_id: str) -> Reason:
        """Return why a job's attempts may not start; NONE when they may."""
        return self._stopped.get(job_id, _NEVER)[1]

    def end(self, lease_id: str) -> bool:
        """Forget a lease; False when it was not there."""
        _remember(self._ended, lease_id, None)
        return self._leases.pop(lease_id, None) is not None

    def give_up(self, lease_id: str) -> bool:
        """Forget a lease of which nothing was begun: its attempt may come again, under another one."""
        lease = self._leases.get(lease_id)
        if lease is not None and lease.kind is LeaseKind.DRIVER:
            self._drivers.pop((lease.job_id, lease.attempt), None)
        return self.end(lease_id)

    def get(self, lease_id: str) -> Lease | None:
        """Return a lease in force, or None."""
        return self._leases.get(lease_id)

    def statuses(self) -> tuple[LeaseStatus, ...]:
        """All leases in force, for a heartbeat."""
        return tuple(lease.status for lease in self._leases.values())

    def __len__(self) -> int:
        return len(self._leases)


def _lease(grant: DriverGranted | ExecutorGranted) -> Lease:
    if isinstance(grant, DriverGranted):
        spec = grant.spec
        return Lease(grant.lease_id, LeaseKind.DRIVER, spec.job_id, spec.attempt, spec.shape, spec.user)
    return Lease(grant.lease_id, LeaseKind.EXECUTOR, grant.job_id, grant.attempt, grant.shape, grant.user)


def _remember(memory: OrderedDict[Key, Value], key: Key, value: Value) -> None:
    memory[key] = value
    memory.move_to_end(key)
    while len(memory) > _REMEMBERED:
        memory.popitem(last=False)
