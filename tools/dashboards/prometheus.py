"""Asking a Prometheus over its HTTP API."""

from __future__ import annotations

import json
import math
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any, Final

_TIMEOUT_S: Final = 30.0


class PrometheusError(Exception):
    """It refused a question; the text is what it says."""


@dataclass(frozen=True, slots=True)
class Series:
    """One time series of an answer."""

    labels: dict[str, str]
    points: tuple[tuple[float, float], ...]
    """(time, value); numbers only: what is no number was left out."""


@dataclass(frozen=True, slots=True)
class Prometheus:
    """One that runs at `url`."""

    url: str

    def range(self, expr: str, start: float, end: float, step_s: float) -> list[Series]:
        """Return what an expression was in a span of time; PrometheusError if it is none."""
        found = self.ask("query_range", query=expr, start=start, end=end, step=step_s)
        return [_series(each["metric"], each["values"]) for each in found["result"]]

    def now(self, expr: str) -> list[Series]:
        """Return what an expression is now."""
        found = self.ask("query", query=expr)
        return [_series(each["metric"], [each["value"]]) for each in found["result"]]

    def ask(self, what: str, **parameters: object) -> Any:
        """Return the data of an answer of its API."""
        url = f"{self.url}/api/v1/{what}?{urllib.parse.urlencode(parameters, doseq=True)}"
        try:
            with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - The caller's own server.
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            told = error.read().decode(errors="replace")
            raise PrometheusError(f"{parameters.get('query', what)}: {told}") from None


def _series(labels: dict[str, str], points: list[tuple[float, str]]) -> Series:
    numbers = ((at, float(value)) for at, value in points)
    return Series(labels, tuple((at, value) for at, value in numbers if math.isfinite(value)))
