"""The queue in front of the devices: who waits, who goes next, and how long it may take."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qonduit_qpu_broker.fairness import Waiting, in_order

if TYPE_CHECKING:
    from qonduit_qpu_broker.fairness import Shares
    from qonduit_qpu_broker.ledger.records import JobRecord
    from qonduit_qpu_broker.metrics import BrokerMetrics
    from qonduit_qpu_broker.upstream import Upstream

_SMOOTHING = 0.3


@dataclass(frozen=True, slots=True)
class Place:
    """Where a job stands.

    Attributes:
        ahead: How many jobs for its device are waiting before it or running, as far as known here; those of others at
            a provider are not.
        wait_s: The seconds that it may wait; None while nothing is known of the device.
    """

    ahead: int
    wait_s: float | None


class Queue:
    """Pure but for a gauge: time is a parameter, and nothing is awaited."""

    def __init__(self, metrics: BrokerMetrics, delay_s: float) -> None:
        self._metrics = metrics
        self._delay_s = delay_s
        self._waiting: dict[str, Waiting] = {}
        self._running: Counter[str] = Counter()
        self._ended_at: dict[str, float] = {}
        self._interval_s: dict[str, float] = {}
        """By device: a moving mean of the seconds between the ends of jobs while it is busy."""

    def __contains__(self, qpu_job_id: object) -> bool:
        return qpu_job_id in self._waiting

    def add(self, job: JobRecord) -> None:
        """Let a job wait."""
        self._waiting[job.qpu_job_id] = Waiting(
            job.qpu_job_id, job.user, job.backend, job.session_id, job.created_at, job.created_at + self._delay_s
        )
        self._metrics.queued.labels(job.backend).inc()

    def resume(self, job: JobRecord, shares: Shares) -> Waiting:
        """Take a job that its upstream has from before a restart: it keeps the place that it had."""
        self._running[job.backend] += 1
        shares.began(job.user)
        return Waiting(job.qpu_job_id, job.user, job.backend, job.session_id, job.created_at, job.created_at)

    def remove(self, qpu_job_id: str) -> None:
        """Let a job wait no more; nothing happens if it does not."""
        if (job := self._waiting.pop(qpu_job_id, None)) is not None:
            self._metrics.queued.labels(job.backend).dec()

    def take(self, upstream: Upstream, shares: Shares, now: float) -> tuple[list[Waiting], float | None]:
        """Take from the queue all that have a place now.

        Returns:
            Those jobs, and after how many seconds it is worth asking again; None if only an event can change anything.
        """
        taken: list[Waiting] = []
        closed: set[tuple[str, str]] = set()
        again = [job.eligible_at - now for job in self._waiting.values() if job.eligible_at > now]
        while (found := self._first_with_place(upstream, shares, now, closed, again)) is not None:
            self.remove(found.qpu_job_id)
            self._running[found.backend] += 1
            shares.began(found.user)
            taken.append(found)
        return taken, min(again, default=None)

    def _first_with_place(
        self, upstream: Upstream, shares: Shares, now: float, closed: set[tuple[str, str]], again: list[float]
    ) -> Waiting | None:
        """Return the first in order that gets a place; `closed` are the (device, session) that have none."""
        for job in in_order(self._waiting.values(), lambda user: shares.had(user, now), now):
            if (job.backend, job.session_id) in closed:
                continue
            wait_s = upstream.claim(job.qpu_job_id, job.backend, job.session_id)
            if wait_s == 0:
                return job
            closed.add((job.backend, job.session_id))
            if wait_s is not None:
                again.append(wait_s)
        return None

    def ended(self, job: Waiting, shares: Shares, now: float) -> None:
        """Note the end of one that was taken."""
        shares.ended(job.user)
        before = self._ended_at.get(job.backend)
        busy = self._running[job.backend] > 1 or any(one.backend == job.backend for one in self._waiting.values())
        self._running[job.backend] -= 1
        self._ended_at[job.backend] = now
        if before is not None and busy:
            mean = self._interval_s.get(job.backend, now - before)
            self._interval_s[job.backend] = mean + _SMOOTHING * (now - before - mean)

    def length(self, backend: str) -> int:
        """Return how many jobs wait for a device."""
        return sum(job.backend == backend for job in self._waiting.values())

    def place(self, backend: str, created_at: float) -> Place:
        """Return where a job of this age stands: an estimate, since who goes next depends on what users had."""
        older = sum(job.backend == backend and job.created_at < created_at for job in self._waiting.values())
        ahead = older + self._running[backend]
        interval_s = self._interval_s.get(backend)
        return Place(ahead, None if interval_s is None and ahead else ahead * (interval_s or 0.0) + self._delay_s)
