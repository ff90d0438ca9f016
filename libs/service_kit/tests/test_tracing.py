from __future__ import annotations

import builtins
from typing import TYPE_CHECKING

import pytest
from qonduit_service_kit import tracing
from qonduit_service_kit.tracing import Span, TracingPart

if TYPE_CHECKING:
    from collections.abc import Iterator

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PLACE = f"00-{TRACE}-{CALLER}-01"


class Kept:
    """Keeps spans instead of sending them."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def export(self, span: Span) -> None:
        self.spans.append(span)

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def kept() -> Iterator[Kept]:
    exporter = Kept()
    tracing.use(exporter)
    yield exporter
    tracing.use(None)


def test_without_a_collector_nothing_has_a_place() -> None:
    with tracing.at(PLACE), tracing.span("work", parent=PLACE) as span:
        assert tracing.current() == tracing.child_of(PLACE) == span.place == tracing.NOWHERE


def test_what_happens_inside_a_span_is_below_it(kept: Kept) -> None:
    with tracing.span("outer", parent=PLACE), tracing.span("inner", number=1):
        inside = tracing.current()
    inner, outer = kept.spans
    assert tracing.ids(inner.place) == tracing.ids(inside)
    assert (inner.parent, outer.parent) == (outer.place, PLACE)
    assert inner.attributes == {"number": 1}
    assert tracing.current() == tracing.NOWHERE


def test_who_knows_what_a_place_is_for_knows_the_place(kept: Kept) -> None:
    assert not kept.spans
    assert tracing.child_of(PLACE, "job-1") == tracing.child_of(PLACE, "job-1") != tracing.child_of(PLACE, "job-2")
    assert tracing.child_of(PLACE) != tracing.child_of(PLACE)


def test_a_failure_is_the_spans_error_and_goes_on(kept: Kept) -> None:
    with pytest.raises(ValueError, match="no"), tracing.span("work", parent=PLACE):
        raise ValueError("no")
    assert kept.spans[0].error == "ValueError: no"


@pytest.mark.parametrize("wrong", ["", "junk", f"00-{TRACE}-{CALLER}", f"00-{TRACE}-{CALLER}-01\n", "x" * 10_000])
def test_what_is_no_traceparent_begins_a_trace_of_its_own(kept: Kept, wrong: str) -> None:
    with tracing.at(wrong):
        assert tracing.current() == tracing.NOWHERE
    with tracing.span("call", parent=wrong) as span:
        assert tracing.ids(span.place) is not None
    assert [span.name for span in kept.spans] == ["call"]


def test_only_the_wanted_share_of_new_traces_is_kept_and_a_callers_word_counts(kept: Kept) -> None:
    tracing.use(kept, ratio=0.0)
    with tracing.span("new", parent=""), tracing.span("below it"):
        pass
    with tracing.span("of a caller", parent=PLACE):
        pass
    with tracing.span("unwanted by its caller", parent=f"{PLACE[:-2]}00"):
        pass
    assert [span.name for span in kept.spans] == ["of a caller"]


async def test_without_opentelemetry_the_start_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: object, **options: object) -> object:
        if name.startswith(("opentelemetry", "qonduit_service_kit.otlp")):
            raise ImportError(f"No module named {name!r}")
        return real(name, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(RuntimeError, match=r"install qonduit-service-kit\[tracing\]"):
        await TracingPart("gateway", "http://127.0.0.1:1", 1.0).start()
    assert not tracing.enabled()
