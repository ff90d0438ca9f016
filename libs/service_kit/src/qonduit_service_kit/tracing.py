"""Traces: what belongs to one job is one trace, from the client's call to the last task.

A place in a trace is a W3C `traceparent` (https://www.w3.org/TR/trace-context/), a text that calls carry as metadata,
messages as a header, and jobs in their row, so that it outlives any process. Spans are made when a thing is over, from
the times that are kept anyway, and go to a collector by OTLP. Without an `otlp_endpoint` nothing of this happens, and
OpenTelemetry is not even imported.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
import time
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

HEADER: Final = "traceparent"
NOWHERE: Final = ""
"""The place of what is in no trace."""
Kind = Literal["internal", "server", "client"]
Attribute = str | int | float | bool
_FORM: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_current: ContextVar[str] = ContextVar("traceparent", default=NOWHERE)


@dataclass(slots=True)
class Span:
    """Something that took time; all times are seconds since the epoch."""

    name: str
    place: str
    """Its own traceparent."""
    parent: str
    start: float
    end: float = 0.0
    kind: Kind = "internal"
    error: str = ""
    """Why it failed; empty if it did not."""
    attributes: dict[str, Attribute] = field(default_factory=dict)


class Exporter(Protocol):
    """Where spans go."""

    def export(self, span: Span) -> None:
        """Take a span that is over; returns at once."""

    def close(self) -> None:
        """Send what is left, for a few seconds at most. Blocks."""


@dataclass(slots=True)
class _Tracing:
    exporter: Exporter | None = None
    ratio: float = 1.0


_tracing = _Tracing()


def enabled() -> bool:
    """Whether this process makes spans."""
    return _tracing.exporter is not None


# --- Places ------------------------------------------------------------------------------------


def current() -> str:
    """Return the place of what runs now; NOWHERE outside of a trace."""
    return _current.get()


@contextmanager
def at(place: str) -> Iterator[None]:
    """Be at a place meanwhile: calls and messages carry it on, and log lines name its trace."""
    before = _current.get()
    _current.set(place if enabled() and _FORM.fullmatch(place) else NOWHERE)
    try:
        yield
    finally:
        _current.set(before)  # Not by a token: a stream that is cut off may end in another context.


def child_of(parent: str, of: str = "") -> str:
    """Return a place below another one, or at the root of a new trace; NOWHERE while tracing is off.

    A text of no traceparent's form, as a stranger may send it, counts as none.

    Args:
        parent: The place above.
        of: Names what the place is for: who knows the name knows the place, whichever process it is in. Without it
            the place is a new one.
    """
    if not enabled():
        return NOWHERE
    form = _FORM.fullmatch(parent)
    if form is not None:
        own = hashlib.sha256(of.encode()).hexdigest()[:16] if of else _random_hex(64)
        return f"00-{form[1]}-{own}-{form[3]}"
    sampled = random.random() < _tracing.ratio  # noqa: S311 - No secret.
    return f"00-{_random_hex(128)}-{_random_hex(64)}-{'01' if sampled else '00'}"


def ids(place: str) -> tuple[str, str] | None:
    """Return (trace id, span id) of a place in hexadecimal, or None."""
    form = _FORM.fullmatch(place)
    return None if form is None else (form[1], form[2])


def is_sampled(place: str) -> bool:
    """Whether whoever began the trace wants its spans."""
    form = _FORM.fullmatch(place)
    return form is not None and bool(int(form[3], 16) & 1)


def _random_hex(bits: int) -> str:
    return f"{random.getrandbits(bits) or 1:0{bits // 4}x}"


# --- Spans -------------------------------------------------------------------------------------


@contextmanager
def span(
    name: str, *, parent: str | None = None, of: str = "", kind: Kind = "internal", **attributes: Attribute
) -> Iterator[Span]:
    """Measure what happens inside, as a child of `parent` or of the current place, and be at its own place meanwhile.

    What it raises is its error. More attributes may be put into the span that it yields.
    """
    above = current() if parent is None else parent
    made = Span(name, child_of(above, of), above, time.time(), kind=kind, attributes=attributes)
    try:
        with at(made.place):
            yield made
    except BaseException as error:
        made.error = made.error or f"{type(error).__name__}: {error}"
        raise
    finally:
        made.end = time.time()
        export(made)


def export(made: Span) -> None:
    """Send a span that is over to the collector, if there is one and it is wanted."""
    if _tracing.exporter is not None and is_sampled(made.place):
        _tracing.exporter.export(made)


def tell(
    name: str, start: float, end: float, *, parent: str, of: str = "", error: str = "", **attributes: Attribute
) -> None:
    """Send a span of something that is over, below a place; `of` is as for `child_of`."""
    if enabled() and parent:
        export(Span(name, child_of(parent, of), parent, start, end, error=error, attributes=attributes))


# --- Life --------------------------------------------------------------------------------------


class TracingPart:
    """Exports the spans of a service; a part that starts first and stops last. Without an endpoint it does nothing."""

    def __init__(self, service: str, endpoint: str, ratio: float) -> None:
        self._service = service
        self._endpoint = endpoint
        self._ratio = ratio

    async def start(self) -> None:
        """Begin; RuntimeError, saying what to install, if OpenTelemetry is missing."""
        if self._endpoint:
            use(await asyncio.to_thread(self._made), self._ratio)

    def _made(self) -> Exporter:
        try:
            from qonduit_service_kit.otlp import OtlpExporter  # noqa: PLC0415 - Only where it is wanted.
        except ImportError as error:
            raise RuntimeError(
                f"tracing to {self._endpoint} needs OpenTelemetry: install qonduit-service-kit[tracing] ({error})"
            ) from error
        return OtlpExporter(self._service, self._endpoint)

    async def stop(self) -> None:
        """Send what is left; safe to call twice."""
        exporter = _tracing.exporter
        use(None)
        if exporter is not None:
            await asyncio.to_thread(exporter.close)


def use(exporter: Exporter | None, ratio: float = 1.0) -> None:
    """Send spans there from now on; `ratio` is the share of new traces that is kept. None turns tracing off."""
    _tracing.exporter, _tracing.ratio = exporter, ratio
