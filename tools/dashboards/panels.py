"""What a dashboard is made of, whoever draws it: Grafana from JSON, or `pictures.py`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """How a panel shows its series."""

    LINES = "lines"
    STACKED = "stacked"
    """Areas on top of each other: the parts of a whole."""
    NUMBER = "number"
    """The last value of each series, large."""
    BUCKETS = "buckets"
    """A heat map of a histogram's buckets over time."""
    ROWS = "rows"
    """A heat map with a row a series."""


class Unit(Enum):
    """Units as Grafana names them."""

    COUNT = "short"
    PER_SECOND = "ops"
    SECONDS = "s"
    BYTES = "bytes"
    BYTES_PER_SECOND = "Bps"
    RATIO = "percentunit"
    CORES = "suffix: cores"
    """CPU seconds a second."""
    DEVICES = "suffix: QPUs"
    """QPU seconds a second."""


class Colour(Enum):
    """What a threshold says."""

    WELL = "green"
    DOUBTFUL = "orange"
    BAD = "red"


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL expression; what it finds is called by `legend`, with labels as {{label}}."""

    expr: str
    legend: str = ""
    empty: str = ""
    """Why it may find nothing in a healthy system; with no reason, finding nothing is a defect."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """From `value` on, it looks like `colour`."""

    value: float
    colour: Colour


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture with its title, a sentence about it, and its queries."""

    title: str
    about: str
    queries: tuple[Query, ...]
    unit: Unit
    kind: Kind = Kind.LINES
    thresholds: tuple[Threshold, ...] = ()
    """In rising order; below the first it is well, unless `low_is_bad`."""
    low_is_bad: bool = False
    alerts: tuple[str, ...] = ()
    """Alerts that watch the same thing: the panel links to their runbooks."""
    width: int = 8
    """Of 24."""
    height: int = 8
    """Rows of Grafana's grid."""
    maximum: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """Panels side by side below a title."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Variable:
    """A choice above the dashboard: the values of a label."""

    name: str
    title: str
    metric: str
    label: str


@dataclass(frozen=True, slots=True)
class Board:
    """A dashboard."""

    uid: str
    title: str
    about: str
    rows: tuple[Row, ...]
    variables: tuple[Variable, ...] = ()

    @property
    def panels(self) -> tuple[Panel, ...]:
        """All panels, in order."""
        return tuple(panel for row in self.rows for panel in row.panels)


def rising(doubtful: float, bad: float) -> tuple[Threshold, ...]:
    """Return the thresholds of something that should stay small."""
    return (Threshold(doubtful, Colour.DOUBTFUL), Threshold(bad, Colour.BAD))


def never(above: float = 0) -> tuple[Threshold, ...]:
    """Return the threshold of something that should be nothing."""
    return (Threshold(above + 1e-9, Colour.BAD),)


def quantiles(
    histogram: str, by: str = "", *, of: tuple[float, ...] = (0.5, 0.95, 0.99), called: str = ""
) -> tuple[Query, ...]:
    """Return queries for quantiles of a histogram, for each value of the label `by`."""
    labels = ", ".join(filter(None, ("le", by)))
    rate = f"sum by ({labels}) (rate({histogram}_bucket[$__rate_interval]))"
    name = f"{{{{{by}}}}} " if by else ""
    return tuple(Query(f"histogram_quantile({q}, {rate})", f"{called}{name}p{q * 100:g}") for q in of)


def buckets(histogram: str) -> tuple[Query, ...]:
    """Return the query for a heat map of a histogram."""
    return (Query(f"sum by (le) (increase({histogram}_bucket[$__rate_interval]))", "{{le}}"),)
