from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qonduit_qpu_broker.fairness import Shares, Waiting, in_order

HALF_LIFE_S = 100.0


def _waiting(number: int, user: str, *, eligible_at: float = 0.0) -> Waiting:
    return Waiting(f"q{number}", user, "ibm_torino", "", float(number), eligible_at)


def test_who_has_had_least_goes_first_and_oldest_first_among_theirs() -> None:
    queue = [_waiting(1, "ada"), _waiting(3, "grace"), _waiting(2, "grace")]
    ordered = in_order(queue, {"ada": 10.0, "grace": 1.0}.__getitem__, now=5.0)
    assert ordered == [_waiting(2, "grace"), _waiting(3, "grace"), _waiting(1, "ada")]


def test_a_job_waits_for_its_time() -> None:
    assert in_order([_waiting(1, "ada", eligible_at=6.0)], lambda _: 0.0, now=5.0) == []


def test_past_use_fades_by_half_in_each_half_life() -> None:
    shares = Shares(HALF_LIFE_S, now=0.0)
    shares.charged("ada", 8.0, at=0.0)
    assert [shares.had("ada", at) for at in (0.0, 100.0, 300.0)] == [8.0, 4.0, 1.0]


def test_after_a_very_long_time_scores_are_as_they_should_be() -> None:
    shares = Shares(HALF_LIFE_S, now=0.0)
    late = 2_000 * HALF_LIFE_S
    shares.charged("ada", 8.0, at=0.0)
    shares.charged("grace", 8.0, at=late)
    assert shares.had("grace", late + 100.0) == 4.0
    assert shares.had("ada", late) == 0.0


def test_a_running_job_counts_before_it_is_charged() -> None:
    shares = Shares(HALF_LIFE_S, now=0.0)
    shares.began("ada")
    assert shares.had("ada", 0.0) == shares.typical_s > 0.0
    shares.ended("ada")
    assert shares.had("ada", 0.0) == 0.0


@given(st.lists(st.sampled_from(["ada", "grace", "alan"]), min_size=3, max_size=60), st.integers(1, 5))
def test_equal_jobs_share_equally_whatever_was_queued(users: list[str], places: int) -> None:
    """With several places at a time, those who wait never differ by more than the places that were given at once."""
    shares = Shares(HALF_LIFE_S, now=0.0)
    queue = {number: _waiting(number, user) for number, user in enumerate(users)}
    had: Counter[str] = Counter()
    running: list[Waiting] = []
    while queue:
        if len(running) == places:
            ended = running.pop(0)
            shares.ended(ended.user)
            shares.charged(ended.user, shares.typical_s, at=1.0)
        chosen = in_order(queue.values(), lambda user: shares.had(user, 1.0), now=1.0)[0]
        waiting = {job.user for job in queue.values()}
        assert had[chosen.user] == min(had[user] for user in waiting)
        del queue[int(chosen.created_at)]
        shares.began(chosen.user)
        had[chosen.user] += 1
        running.append(chosen)
    assert shares.typical_s == pytest.approx(1.0)
