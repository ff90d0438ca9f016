"""Whether dashboards and rules are true: every query runs, finds something, and is in the unit that its panel says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dashboards.dimensions import OF_UNIT, Dimensions
from dashboards.prometheus import PrometheusError
from dashboards.stored import filled, metrics_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from dashboards.prometheus import Prometheus
    from dashboards.stored import Rule, StoredQuery


@dataclass(frozen=True, slots=True)
class Span:
    """From when to when a Prometheus watched what is asked for."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        """How long that is."""
        return self.end - self.start


def faults_of_queries(
    prometheus: Prometheus,
    queries: Iterable[StoredQuery],
    span: Span,
    may_be_empty: Mapping[tuple[str, str, str], str],
    variables: dict[str, str],
) -> list[str]:
    """Return a line for each query that is refused, or finds no number though nothing says that it may."""
    faults = []
    for query in queries:
        expr = filled(query.expr, range_s=span.seconds, variables=variables)
        try:
            found = prometheus.range(expr, span.start, span.end, 1)
        except PrometheusError as error:
            faults.append(f"{query.place}: {error}")
            continue
        if not any(series.points for series in found):
            place = (query.board, query.panel, query.letter)
            if place not in may_be_empty:
                faults.append(f"{query.place} finds nothing: {expr}")
    return faults


def faults_of_units(queries: Iterable[StoredQuery], rules: Iterable[Rule], heat_maps: Collection[str]) -> list[str]:
    """Return a line for each query whose values are in another unit than its panel says."""
    dimensions = Dimensions({rule.name: rule.expr for rule in rules if not rule.is_alert})
    faults = []
    for query in queries:
        expr = filled(query.expr, range_s=60, variables={"worker": ".+", "backend": ".+"})
        found = dimensions.of(expr, rows=f"{query.board}/{query.panel}" in heat_maps)
        if query.unit not in OF_UNIT:
            faults.append(f"{query.place}: no unit that is known: {query.unit!r}")
        elif found != OF_UNIT[query.unit]:
            faults.append(f"{query.place}: {expr} is no {query.unit!r}")
    return faults


def faults_of_names(exprs: Mapping[str, str], exported: Collection[str], recorded: Collection[str]) -> list[str]:
    """Return a line for each metric asked for, by place, that neither a service exports nor a rule records."""
    known = {name + end for name in exported for end in ("", "_bucket", "_sum", "_count")}.union(recorded)
    return [
        f"{place} asks for {name}, which nobody exports"
        for place, expr in exprs.items()
        for name in sorted(metrics_of(expr))
        if name not in known and (name.startswith("qonduit_") or ":" in name)
    ]
