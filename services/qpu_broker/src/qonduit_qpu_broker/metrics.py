"""Metrics of the broker, each defined once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily
from qonduit_service_kit.metrics import REGISTRY

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client import CollectorRegistry


class QpuSeconds:
    """`qonduit_qpu_seconds_total`: what the ledger has booked, so that a restart neither loses nor doubles it."""

    def __init__(self) -> None:
        self._totals: dict[tuple[str, str], float] = {}

    def reset(self, totals: Mapping[tuple[str, str], float]) -> None:
        """Take the ledger's totals, by (device, mode)."""
        self._totals = dict(totals)

    def add(self, backend: str, mode: str, seconds: float) -> None:
        """Add what was booked just now."""
        self._totals[backend, mode] = self._totals.get((backend, mode), 0.0) + seconds

    def describe(self) -> Iterator[CounterMetricFamily]:
        """Name the metric, without values."""
        yield CounterMetricFamily("qonduit_qpu_seconds", "QPU seconds charged.", labels=["backend", "mode"])

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Return the totals."""
        family = CounterMetricFamily("qonduit_qpu_seconds", "QPU seconds charged.", labels=["backend", "mode"])
        for (backend, mode), seconds in sorted(self._totals.items()):
            family.add_metric([backend, mode], seconds)
        yield family


class BrokerMetrics:
    """All metrics of one broker."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.qpu_seconds = QpuSeconds()
        registry.register(self.qpu_seconds)
        self.submissions = Counter(
            "qonduit_qpu_submissions_total",
            "QPU jobs taken into the ledger.",
            ["backend", "program"],
            registry=registry,
        )
        self.finished = Counter(
            "qonduit_qpu_jobs_finished_total", "QPU jobs that ended.", ["backend", "state"], registry=registry
        )
        self.queued = Gauge("qonduit_qpu_queue_length", "QPU jobs that wait.", ["backend"], registry=registry)
        self.waited = Histogram(
            "qonduit_qpu_wait_seconds",
            "Seconds from submission to the device.",
            ["backend"],
            buckets=(0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000, 10000),
            registry=registry,
        )
        self.requests = Counter(
            "qonduit_qpu_requests_total", "Requests of programs' clients.", ["method", "status"], registry=registry
        )
