from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from qonduit_qpu_broker.ibm.pace import LIMIT_WINDOW_S, Backoff, Breaker, SubmissionLimit


@given(st.lists(st.floats(0.0, 30.0), max_size=80), st.integers(1, 7))
def test_no_minute_has_more_submissions_than_the_limit(pauses: list[float], a_minute: int) -> None:
    limit, now, sent = SubmissionLimit(a_minute), 1000.0, []
    for pause in pauses:
        now += pause
        now += limit.ready_in(now)
        assert limit.ready_in(now) == 0.0 or limit.ready_in(now) < 1e-6
        limit.take(now)
        sent.append(now)
    assert all(later - earlier >= 60.0 for earlier, later in zip(sent, sent[a_minute:], strict=False))


def test_while_the_provider_has_said_to_wait_none_is_sent() -> None:
    limit = SubmissionLimit(5)
    limit.hold(130.0)
    limit.hold(110.0)
    assert [limit.ready_in(now) for now in (100.0, 130.0)] == [30.0, 0.0]


def test_what_was_sent_before_a_restart_counts() -> None:
    limit = SubmissionLimit(2)
    for at in (50.0, 90.0):
        limit.take(at)
    assert limit.ready_in(100.0) == 50.0 + LIMIT_WINDOW_S - 100.0


def test_waits_grow_to_a_bound_and_differ() -> None:
    backoff = Backoff(1.0, 8.0)
    waits = [backoff.next_s() for _ in range(10)]
    assert all(min(8.0, 2.0**tries) / 4 <= wait <= min(8.0, 2.0**tries) for tries, wait in enumerate(waits))
    assert len(set(waits)) == len(waits)


def test_the_breaker_opens_after_failures_in_a_row_and_lets_one_through_again() -> None:
    breaker = Breaker(failures_to_open=3)
    breaker.failed("a", 0.0)
    breaker.failed("b", 0.0)
    breaker.succeeded()
    for _ in range(3):
        breaker.failed("the network is down", 10.0)
    assert breaker.is_open()
    wait_s = breaker.ready_in(10.0)
    assert wait_s > 0.0
    later = 10.0 + wait_s
    assert breaker.ready_in(later) == 0.0
    breaker.failed("still", later)
    assert breaker.ready_in(later) > 0.0
    breaker.succeeded()
    assert (breaker.is_open(), breaker.ready_in(later)) == (False, 0.0)
