"""Metrics of the broker, each defined once."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from qonduit_service_kit.metrics import REGISTRY

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

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


class Readings:
    """A gauge whose label values come and go: what is not among the newest readings is gone, not stuck at its last."""

    def __init__(self, name: str, text: str, labels: Sequence[str]) -> None:
        self._family = partial(GaugeMetricFamily, name, text, labels=labels)
        self._readings: Mapping[tuple[str, ...], float] = {}

    def set(self, readings: Mapping[tuple[str, ...], float]) -> None:
        """Take new readings, by the labels' values; they replace all former ones."""
        self._readings = dict(readings)

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Name the metric, without values."""
        yield self._family()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Return the newest readings."""
        family = self._family()
        for values, reading in sorted(self._readings.items()):
            family.add_metric(values, reading)
        yield family


class BrokerMetrics:
    """All metrics of one broker."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.qpu_seconds = QpuSeconds()
        self.sessions = Readings(
            "qonduit_qpu_open_sessions", "Sessions and batches that programs have open.", ("backend", "mode")
        )
        self.upstream_sessions = Readings(
            "qonduit_qpu_open_upstream_sessions",
            "Those that are open at a provider, where dedicated ones cost by the clock.",
            ("backend", "mode"),
        )
        self.accounts = Readings(
            "qonduit_qpu_account_ok",
            "1 while all instances of an account answer and take its credentials; `local` are the simulated devices.",
            ("account",),
        )
        for collector in (self.qpu_seconds, self.sessions, self.upstream_sessions, self.accounts):
            registry.register(collector)
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
