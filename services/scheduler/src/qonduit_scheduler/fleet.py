"""The workers and what they hold, indexed by what is free in each dimension."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from qonduit_service_kit.messages import LeaseKind, Shape

from qonduit_scheduler.policy import deficit, dominant_share, leftover, remaining_s
from qonduit_scheduler.shapes import NOTHING, add, fits, subtract

if TYPE_CHECKING:
    from collections.abc import Iterator

_COMPARED: Final = 16
"""Fitting workers, tightest first, among which the best fit is chosen: bounds a decision's time."""


@dataclass(slots=True)
class Lease:
    """A place on a worker that a driver or an executor has, until it ends."""

    lease_id: str
    kind: LeaseKind
    job_id: str
    attempt: int
    user: str
    shape: Shape
    worker_id: str
    granted_at: float
    acknowledged: bool = False
    """Whether the worker has reported it."""
    name: str = ""
    """Of the driver's function."""
    expected_s: float = 0.0
    """Predicted run time: of a driver's program, of an executor's next task."""
    adopted: bool = False
    """Granted by an earlier leader: `granted_at` is when it was met."""
    beside: bool = False
    """Let onto a worker that was kept for another, as it fits beside that one: it may stay."""
    lends_cpu: bool = False
    """It waits in get(): its cpu is free for others, its memory and gpus aren't."""
    waiting_sequence: int = -1
    idle_seen_at: float | None = None
    revoked_at: float | None = None
    revoked_now: bool = False
    orphan: bool = False
    """Reported by its worker though nothing wants it: it is being taken back, and counts only for its worker."""

    @property
    def held(self) -> Shape:
        """What it takes of its worker at this moment."""
        return Shape(0, self.shape.mem_bytes, self.shape.gpus) if self.lends_cpu else self.shape

    @property
    def serves(self) -> bool:
        """Whether it is an executor that can take another task; one that waits inside a task can't."""
        return self.kind is LeaseKind.EXECUTOR and self.revoked_at is None and not self.lends_cpu

    def ends_in_s(self, now: float) -> float:
        """Return for how much longer it will hold its place if it is wanted: an executor finishes the task in hand."""
        if self.kind is LeaseKind.DRIVER:
            return remaining_s(expected_s=self.expected_s, elapsed_s=now - self.granted_at)
        if self.revoked_at is None:
            return self.expected_s
        return remaining_s(expected_s=self.expected_s, elapsed_s=now - self.revoked_at)


@dataclass(slots=True)
class Worker:
    """A worker that sends heartbeats."""

    worker_id: str
    incarnation: str
    sequence: int
    capacity: Shape
    seen_at: float
    hostname: str = ""
    sandbox_tier: str = ""
    draining: bool = False
    elected_us: bool = False
    """Has seen our election: no grant of an earlier leader can reach it any more."""
    refuses: bool = False
    """Refused a grant, or its inbox is gone: gets nothing new until its next heartbeat."""
    used: Shape = NOTHING
    leases: dict[str, Lease] = field(default_factory=dict)
    reminded_at: float | None = None

    @property
    def free(self) -> Shape:
        """What nobody holds; negative cpu while a driver has taken its lent cpu back."""
        return subtract(self.capacity, self.used)

    @property
    def is_open(self) -> bool:
        """Whether it takes new leases."""
        return self.elected_us and not self.draining and not self.refuses


class FreeIndex:
    """The open workers sorted by what is free, once for each dimension."""

    def __init__(self) -> None:
        self._sorted: tuple[list[tuple[int, str]], ...] = ([], [], [])
        self._free: dict[str, Shape] = {}

    def put(self, worker_id: str, free: Shape) -> None:
        """Set what a worker has free."""
        if self._free.get(worker_id) == free:
            return
        self.drop(worker_id)
        self._free[worker_id] = free
        for dimension, amount in zip(self._sorted, _amounts(free), strict=True):
            insort(dimension, (amount, worker_id))

    def drop(self, worker_id: str) -> None:
        """Forget a worker; again changes nothing."""
        free = self._free.pop(worker_id, None)
        if free is None:
            return
        for dimension, amount in zip(self._sorted, _amounts(free), strict=True):
            del dimension[bisect_left(dimension, (amount, worker_id))]

    def fitting(self, need: Shape) -> Iterator[tuple[str, Shape]]:
        """Yield workers with room for `need`, tightest first in the dimension that rules out most."""
        starts = [
            bisect_left(dimension, (amount, "")) for dimension, amount in zip(self._sorted, _amounts(need), strict=True)
        ]
        start = max(starts)
        dimension = self._sorted[starts.index(start)]
        for position in range(start, len(dimension)):
            worker_id = dimension[position][1]
            free = self._free[worker_id]
            if fits(need, free):
                yield worker_id, free

    def most_free_first(self, need: Shape) -> Iterator[str]:
        """Yield workers, most free first in the dimension in which fewest have room for `need`."""
        dimension = max(
            zip(self._sorted, _amounts(need), strict=True), key=lambda one: bisect_left(one[0], (one[1], ""))
        )[0]
        return (worker_id for _, worker_id in reversed(dimension))

    def most_free(self) -> tuple[tuple[int, str], ...]:
        """Return (amount, worker id) of the largest free cpu, memory and gpus; empty without workers."""
        return tuple(dimension[-1] for dimension in self._sorted if dimension)


def _amounts(shape: Shape) -> tuple[int, int, int]:
    return shape.cpu_millis, shape.mem_bytes, shape.gpus


class Fleet:
    """All live workers, and those that left a moment ago."""

    def __init__(self) -> None:
        self.workers: dict[str, Worker] = {}
        self.index = FreeIndex()
        self.total = NOTHING
        self.departed: dict[str, tuple[Shape, float]] = {}
        """Capacity of a worker that left, and until when it still counts in `could_fit`."""
        self.capacity_changes = 0
        """Raised whenever a shape that could fit before may no longer, or the reverse."""
        self._capacities: Counter[Shape] = Counter()
        self._counted_at = -1

    def join(self, worker: Worker) -> None:
        """Add a worker that isn't there."""
        self.workers[worker.worker_id] = worker
        self.departed.pop(worker.worker_id, None)
        self.total = add(self.total, worker.capacity)
        self.capacity_changes += 1
        self.reindex(worker)

    def leave(self, worker: Worker, *, counts_until: float) -> None:
        """Remove a worker whose leases have been released."""
        del self.workers[worker.worker_id]
        if not worker.draining:
            self.departed[worker.worker_id] = (worker.capacity, counts_until)
        self.capacity_changes += 1
        self.total = subtract(self.total, worker.capacity)
        self.index.drop(worker.worker_id)

    def forget_departed(self, now: float) -> None:
        """Stop counting workers that left long enough ago."""
        for worker_id in [name for name, (_, until) in self.departed.items() if until <= now]:
            del self.departed[worker_id]
            self.capacity_changes += 1

    def resize(self, worker: Worker, capacity: Shape, *, draining: bool) -> None:
        """Set a worker's capacity and whether it is draining."""
        if capacity == worker.capacity and draining == worker.draining:
            return
        self.total = add(subtract(self.total, worker.capacity), capacity)
        worker.capacity, worker.draining = capacity, draining
        self.capacity_changes += 1
        self.reindex(worker)

    def reindex(self, worker: Worker) -> None:
        """Bring the index up to date after a change of a worker."""
        if worker.is_open:
            self.index.put(worker.worker_id, worker.free)
        else:
            self.index.drop(worker.worker_id)

    def hold(self, worker: Worker, shape: Shape) -> None:
        """Count a shape as used on a worker."""
        worker.used = add(worker.used, shape)
        self.reindex(worker)

    def free(self, worker: Worker, shape: Shape) -> None:
        """Count a shape as no longer used on a worker."""
        worker.used = subtract(worker.used, shape)
        self.reindex(worker)

    def could_fit(self, need: Shape, *, beside: tuple[str, Shape] | None = None) -> bool:
        """Whether some worker could hold the shape if it were empty, but for what `beside` says stays there.

        True while no worker is known: then nobody can say.
        """
        offers = self._offers(beside)
        return not offers or any(fits(need, offer) for offer in offers)

    def size_of(self, shape: Shape) -> float:
        """Return the largest fraction that a shape takes of the most that a worker offers; 0 without workers."""
        offers = self._offers(None)
        if not offers:
            return 0.0
        largest = Shape(
            max(offer.cpu_millis for offer in offers),
            max(offer.mem_bytes for offer in offers),
            max(offer.gpus for offer in offers),
        )
        return min(1.0, dominant_share(shape, largest))

    def fits_elsewhere(self, need: Shape) -> bool:
        """Whether some connected worker that isn't draining could hold the shape if it were empty."""
        return any(not worker.draining and fits(need, worker.capacity) for worker in self.workers.values())

    def nearest_offer(self, need: Shape, *, beside: tuple[str, Shape] | None = None) -> Shape:
        """Return the capacity that comes nearest to holding the shape; NOTHING without workers."""
        return min(
            self._offers(beside),
            key=lambda offer: (deficit(need, offer), -offer.cpu_millis, -offer.mem_bytes, -offer.gpus),
            default=NOTHING,
        )

    def _offers(self, beside: tuple[str, Shape] | None) -> list[Shape]:
        """Return the distinct capacities; counted once for each change of the fleet, not for each question."""
        if self._counted_at != self.capacity_changes:
            live = [worker.capacity for worker in self.workers.values() if not worker.draining]
            gone = [capacity for capacity, _ in self.departed.values()] if live else []
            self._capacities = Counter(live + gone)
            self._counted_at = self.capacity_changes
        if beside is None or beside[0] not in self.workers or self.workers[beside[0]].draining:
            return list(self._capacities)
        whole = self.workers[beside[0]].capacity
        offers = [offer for offer, count in self._capacities.items() if offer != whole or count > 1]
        return [*offers, subtract(whole, beside[1])]

    def most_free_first(self, need: Shape) -> Iterator[Worker]:
        """Yield the open workers, most free first in the dimension in which fewest have room for `need`."""
        return (self.workers[worker_id] for worker_id in self.index.most_free_first(need))

    def draining(self) -> list[Worker]:
        """Return the workers that take nothing new and shall become empty."""
        return [worker for worker in self.workers.values() if worker.draining]

    def tightest(self, fitting: Iterator[Worker], need: Shape) -> Worker | None:
        """Return the best fit among the first workers offered."""
        best: tuple[float, str] | None = None
        for worker, _ in zip(fitting, range(_COMPARED), strict=False):
            score = (leftover(worker.free, need, self.total), worker.worker_id)
            if best is None or score < best:
                best = score
        return None if best is None else self.workers[best[1]]
