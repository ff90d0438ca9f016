"""The scheduler's metrics, each defined once; none is labelled by user, job or worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from qonduit_service_kit.messages import LeaseKind, Shape
from qonduit_service_kit.metrics import REGISTRY

from qonduit_scheduler.leadership import Role
from qonduit_scheduler.shapes import NOTHING, add

if TYPE_CHECKING:
    from qonduit_scheduler.core import Core
    from qonduit_scheduler.leadership import Leadership
    from qonduit_scheduler.picture import Picture

_DECISION_BUCKETS: Final = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 1.0)
_WAIT_BUCKETS: Final = (0.001, 0.01, 0.1, 1, 5, 15, 60, 300, 1800, 7200, 43200)


class SchedulerMetrics:
    """All metrics of one scheduler process."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"qonduit_scheduler_{name}", text, labels, registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"qonduit_scheduler_{name}", text, labels, registry=registry)

        self.leader = gauge("leader", "1 while this scheduler leads.")
        self.term = gauge("term", "Its term of leadership; 0 while it doesn't lead.")
        self.waiting = gauge("waiting", "Drivers, and executors of a job and shape, that wait for room.", "kind")
        self.wanted = gauge(
            "waiting_resources", "What all that waits for room needs together: cores, bytes, devices.", "resource"
        )
        self.oldest = gauge(
            "oldest_waiting_seconds", "How long the longest waiting of the most urgent of each shape has waited."
        )
        self.workers = gauge("workers", "Live workers.", "state")
        self.capacity = gauge("capacity", "What the workers offer: cores, bytes, devices.", "resource")
        self.allocated = gauge("allocated", "What leases hold: cores, bytes, devices.", "resource")
        self.leases = gauge("leases", "Leases held.", "kind")
        self.reservations = gauge("reservations", "Workers kept free for what has waited too long.")
        self.placements = counter("placements_total", "Leases granted.", "kind")
        self.refusals = counter("refusals_total", "Shapes refused because they could never fit.")
        self.attempts_lost = counter("attempts_lost_total", "Attempts reported as lost.")
        self.executors_lost = counter("executors_lost_total", "Executors reported as lost.")
        self.takeovers = counter("takeovers_total", "Times this scheduler took over.")
        self.decision = Histogram(
            "qonduit_scheduler_decision_seconds",
            "Time to handle one event, placements included.",
            ["event"],
            buckets=_DECISION_BUCKETS,
            registry=registry,
        )
        self.wait = Histogram(
            "qonduit_scheduler_wait_seconds",
            "Time from wanting a lease to its grant.",
            ["kind"],
            buckets=_WAIT_BUCKETS,
            registry=registry,
        )
        self._takeovers_seen = 0

    def tell_role(self, leadership: Leadership) -> None:
        """Set what says who leads; cheap enough for each tick."""
        self.leader.set(leadership.role is Role.LEADING)
        self.term.set(leadership.term)
        self.takeovers.inc(leadership.takeovers - self._takeovers_seen)
        self._takeovers_seen = leadership.takeovers

    def observe(self, leadership: Leadership, now: float) -> None:
        """Set all gauges from the state, and add what was counted since."""
        self.tell_role(leadership)
        if leadership.core is not None:
            self._count(leadership.core)
            self._measure(leadership.core.picture, now)

    def _count(self, core: Core) -> None:
        tally = core.take_tally()
        for kind, count in tally.placements.items():
            self.placements.labels(kind.value).inc(count)
        for kind, seconds in tally.waits_s:
            self.wait.labels(kind.value).observe(seconds)
        self.refusals.inc(tally.refusals)
        self.attempts_lost.inc(tally.attempts_lost)
        self.executors_lost.inc(tally.executors_lost)

    def _measure(self, picture: Picture, now: float) -> None:
        waiting = dict.fromkeys(LeaseKind, 0)
        cpu_millis = mem_bytes = gpus = 0  # Plain numbers: there may be a hundred thousand entries.
        for entry in picture.line.entries.values():
            if picture.line.is_held(entry):
                continue  # More workers would not help it.
            waiting[entry.kind] += entry.count
            cpu_millis += entry.asked.cpu_millis * entry.count
            mem_bytes += entry.asked.mem_bytes * entry.count
            gpus += entry.asked.gpus * entry.count
        leases = dict.fromkeys(LeaseKind, 0)
        used = NOTHING
        for worker in picture.fleet.workers.values():
            used = add(used, worker.used)
            for lease in worker.leases.values():
                leases[lease.kind] += 1
        for kind in LeaseKind:
            self.waiting.labels(kind.value).set(waiting[kind])
            self.leases.labels(kind.value).set(leases[kind])
        self.oldest.set(
            max((now - picture.line.wants_room_since(entry) for entry in picture.line.heads()), default=0.0)
        )
        draining = sum(worker.draining for worker in picture.fleet.workers.values())
        self.workers.labels("draining").set(draining)
        self.workers.labels("ready").set(len(picture.fleet.workers) - draining)
        self.reservations.set(len(picture.reservations))
        _set_by_resource(self.capacity, picture.fleet.total)
        _set_by_resource(self.allocated, used)
        _set_by_resource(self.wanted, Shape(cpu_millis, mem_bytes, gpus))


def _set_by_resource(gauge: Gauge, shape: Shape) -> None:
    gauge.labels("cpu").set(shape.cpu_millis / 1000)
    gauge.labels("memory").set(shape.mem_bytes)
    gauge.labels("gpu").set(shape.gpus)
