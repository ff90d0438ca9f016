from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from qonduit_qpu_broker.fairness import Waiting, next_job


def _waiting(number: int, user: str, *, eligible_at: float = 0.0) -> Waiting:
    return Waiting(f"q{number}", user, "ibm_torino", float(number), eligible_at)


def test_who_has_used_least_goes_first_and_oldest_first_among_theirs() -> None:
    queue = [_waiting(1, "ada"), _waiting(3, "grace"), _waiting(2, "grace")]
    chosen = next_job(queue, {"ada": 10.0, "grace": 1.0}, now=5.0)
    assert chosen == _waiting(2, "grace")


def test_a_job_waits_for_its_time() -> None:
    assert next_job([_waiting(1, "ada", eligible_at=6.0)], {}, now=5.0) is None


@given(st.lists(st.sampled_from(["ada", "grace", "alan"]), min_size=3, max_size=60))
def test_equal_jobs_share_equally_whatever_was_queued(users: list[str]) -> None:
    queue = {number: _waiting(number, user) for number, user in enumerate(users)}
    used: dict[str, float] = {}
    while queue:
        chosen = next_job(queue.values(), used, now=1.0)
        assert chosen is not None
        waiting = {job.user for job in queue.values()}
        assert used.get(chosen.user, 0.0) == min(used.get(user, 0.0) for user in waiting)
        del queue[int(chosen.created_at)]
        used[chosen.user] = used.get(chosen.user, 0.0) + 1.0
