"""docs/architecture/metrics.md: every metric that our services export, from the very objects that count."""

from __future__ import annotations

import importlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry
from qonduit_gateway.instruments import Instruments
from qonduit_qpu_broker.metrics import BrokerMetrics
from qonduit_scheduler.metrics import SchedulerMetrics
from qonduit_service_kit.bus.metrics import BusMetrics
from qonduit_service_kit.interceptors import MetricsInterceptor
from qonduit_service_kit.metrics import REGISTRY, build_info
from qonduit_storage.disk import Disk
from qonduit_storage.metrics import StorageMetrics

from dashboards.stored import ROOT, filled, metrics_of, rules, stored_queries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

PAGE: Final = ROOT / "docs" / "architecture" / "metrics.md"
_HEAD: Final = """\
# Metrics

<!-- Made by `make dashboards` from the code; `make check` tells when it is stale. -->

Each service serves its metrics at `/metrics` of a port of its own (`QONDUIT_<SERVICE>_METRICS_PORT`), and
`qonduit_build_info` says which service and version that is. Beside what is listed here come `process_*` and `python_*`,
what Prometheus' client for Python tells of every process. A histogram is read as `_bucket`, `_sum` and `_count`.

No label holds a job, a task, a session or a worker: what has no bound is in the API and in the logs. Users are labels
only where the operator asks for it (`QONDUIT_GATEWAY_METRICS_BY_USER=true`): `qonduit_user_*`. What the metrics are for
is told in [observing a stack](../guides/observing.md).
"""
_SUFFIX: Final = {"counter": "_total", "info": "_info"}


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric, by the name that queries use."""

    name: str
    kind: str
    labels: tuple[str, ...]
    text: str


def metrics_by_service() -> dict[str, list[Metric]]:
    """Return all metrics by who exports them."""
    return {
        "gateway": _made(lambda registry: Instruments(registry, by_user=True)),
        "scheduler": _made(SchedulerMetrics),
        "worker": _declared("qonduit_worker.metrics"),
        "qpu_broker": [*_made(BrokerMetrics), *_declared("qonduit_qpu_broker.ibm.metrics")],
        "storage": _made(_storage),
        "gateway, storage: calls": _made(MetricsInterceptor),
        "gateway, scheduler, worker, qpu_broker: the bus": _made(BusMetrics),
        "all": _made(lambda registry: build_info("gateway", registry=registry)),
    }


def page() -> str:
    """Return the text of the page."""
    used = _uses()
    parts = [_HEAD]
    for service, metrics in metrics_by_service().items():
        parts.append(f"\n## {service}\n\n| metric | type | labels | what | shown in |\n|---|---|---|---|---|\n")
        for metric in sorted(metrics, key=lambda each: each.name):
            places = sorted(used.get(metric.name, ()))
            labels = ", ".join(f"`{label}`" for label in metric.labels)
            parts.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.text} | {', '.join(places)} |\n")
    return "".join(parts)


def _storage(registry: CollectorRegistry) -> object:
    # It is asked nothing: only what the metrics are is told.
    return StorageMetrics(Disk(Path(tempfile.gettempdir()), min_free_bytes=0), registry)


def _made(make: Callable[[CollectorRegistry], object]) -> list[Metric]:
    registry = CollectorRegistry()
    kept = make(registry)
    found = [metric for collector in _collectors(registry) for metric in _described(collector)]
    del kept
    return found


def _declared(module: str) -> list[Metric]:
    """Return the metrics that a module declares in the registry of its process."""
    declared = vars(importlib.import_module(module)).values()
    return [metric for collector in _collectors(REGISTRY) if collector in declared for metric in _described(collector)]


def _collectors(registry: CollectorRegistry) -> list[Any]:
    # The client has no public way to ask what is registered, or for a metric's labels before it has a value.
    return list(registry._collector_to_names)  # noqa: SLF001


def _described(collector: Any) -> Iterable[Metric]:
    for family in collector.describe():
        labels = getattr(collector, "_labelnames", ()) or getattr(family, "_labelnames", ())
        yield Metric(family.name + _SUFFIX.get(family.type, ""), family.type, tuple(labels), family.documentation)


def _uses() -> dict[str, set[str]]:
    """Return on which dashboards, and in which alerts, each metric is; also by way of a recording rule."""
    recorded = {rule.name: metrics_of(rule.expr) for rule in rules() if not rule.is_alert}
    used: dict[str, set[str]] = {}
    places = [(query.board.removeprefix("qonduit-"), filled(query.expr, range_s=60)) for query in stored_queries()]
    places += [(f"[{rule.name}](../runbooks/{rule.name}.md)", rule.expr) for rule in rules() if rule.is_alert]
    for place, expr in places:
        names = metrics_of(expr)
        for _ in range(2):  # What is recorded may itself ask for what is recorded.
            names = names.union(*(recorded.get(name, set()) for name in names))
        for name in names:
            base = name if name not in recorded else ""
            for end in ("_bucket", "_sum", "_count"):
                base = base.removesuffix(end)
            used.setdefault(base, set()).add(place)
    return used
