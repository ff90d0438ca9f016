from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from qonduit.tracing import traceparent

if TYPE_CHECKING:
    from collections.abc import Callable

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def opentelemetry(*, is_valid: bool) -> Callable[[], object]:
    """As much of `opentelemetry.trace` as is asked: a span."""
    context = SimpleNamespace(trace_id=int(TRACE, 16), span_id=int(SPAN, 16), trace_flags=1, is_valid=is_valid)
    return lambda: SimpleNamespace(get_span_context=lambda: context)


@pytest.mark.parametrize(
    ("given", "told"),
    [(f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-01"), ("", ""), ("00-short-01", ""), ("a\nb", "")],
)
def test_the_variable_names_the_place_if_it_is_one(monkeypatch: pytest.MonkeyPatch, given: str, told: str) -> None:
    monkeypatch.delitem(sys.modules, "opentelemetry.trace", raising=False)
    monkeypatch.setenv("TRACEPARENT", given)
    assert traceparent() == told


def test_a_programs_own_span_goes_before_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACEPARENT", f"00-{'a' * 32}-{SPAN}-00")
    for is_valid, told in ((True, f"00-{TRACE}-{SPAN}-01"), (False, f"00-{'a' * 32}-{SPAN}-00")):
        module = SimpleNamespace(get_current_span=opentelemetry(is_valid=is_valid))
        monkeypatch.setitem(sys.modules, "opentelemetry.trace", module)
        assert traceparent() == told
