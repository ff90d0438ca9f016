from __future__ import annotations

from typing import Any

import pytest
from qonduit_scheduler.leadership import Leadership, LeadershipSettings, Role
from qonduit_scheduler.policy import PolicySettings
from qonduit_service_kit import messages as m


def new(name: str = "s1") -> Leadership:
    return Leadership(name, LeadershipSettings(), PolicySettings())


def role_of(leadership: Leadership) -> Role:
    return leadership.role


def hellos(commands: list[Any]) -> list[str]:
    return [send.body.scheduler_id for send in commands if isinstance(send.body, m.SchedulerHello)]


def lead(leadership: Leadership, *, term: int = 1, now: float = 0.0) -> list[Any]:
    leadership.received(m.SchedulerProbe("x", 1), now)
    return leadership.received(m.JobsSnapshot(leadership.scheduler_id, term, 0, last=True), now)


def test_a_standby_probes_and_says_no_hello() -> None:
    standby = new()
    for second in range(10):
        commands = standby.tick(float(second), connected=True)
        assert [type(send.body) for send in commands] == [m.SchedulerProbe]
    assert role_of(standby) is Role.STANDBY


@pytest.mark.parametrize("message", [m.SchedulerProbe("another", 7), m.JobWithdrawn("j", 1)])
def test_whoever_gets_a_message_is_active_and_asks_for_the_jobs(message: object) -> None:
    scheduler = new()
    assert hellos(scheduler.received(message, 0.0)) == ["s1.1"]
    assert role_of(scheduler) is Role.ASKING


def test_the_snapshot_may_come_in_pages_in_any_order_and_twice(job: Any) -> None:
    scheduler = new()
    scheduler.received(m.SchedulerProbe("s1", 1), 0.0)
    pages = [
        m.JobsSnapshot("s1.1", 4, number, last=number == 2, queued=(job(f"j{number}"),)) for number in (2, 0, 0, 1)
    ]
    for page in pages[:-1]:
        assert scheduler.received(page, 0.0) == []
    (elected,) = [send for send in scheduler.received(pages[-1], 0.0) if send.to == m.ALL_WORKERS]
    assert elected.body == m.SchedulerElected(4)
    assert scheduler.core is not None
    assert sorted(scheduler.core.picture.attempts) == ["j0", "j1", "j2"]


def test_what_came_before_the_snapshot_is_not_lost(job: Any) -> None:
    scheduler = new()
    scheduler.received(m.JobSubmitted(job("early")), 0.0)
    scheduler.received(m.JobsSnapshot("s1.1", 1, 0, last=True), 0.0)
    assert scheduler.core is not None
    assert "early" in scheduler.core.picture.attempts


def test_an_unanswered_hello_is_repeated_less_and_less_often() -> None:
    scheduler = new()
    scheduler.received(m.SchedulerProbe("s1", 1), 0.0)
    repeated = []
    for second in range(1, 60):
        repeated += [second for _ in hellos(scheduler.tick(float(second), connected=True))]
        scheduler.received(m.SchedulerProbe("s2", second), float(second))
    assert repeated == [2, 6, 14, 30]


def test_an_answer_to_an_earlier_round_is_ignored() -> None:
    scheduler = new()
    scheduler.received(m.SchedulerProbe("s1", 1), 0.0)
    scheduler.tick(10.0, connected=True)
    assert role_of(scheduler) is Role.STANDBY
    scheduler.received(m.SchedulerProbe("s1", 2), 10.0)
    scheduler.received(m.JobsSnapshot("s1.1", 1, 0, last=True), 10.0)
    assert role_of(scheduler) is Role.ASKING


def test_silence_or_a_lost_connection_ends_leading() -> None:
    for now, connected in ((6.0, True), (0.5, False)):
        leader = new()
        lead(leader)
        assert role_of(leader) is Role.LEADING
        leader.tick(now, connected=connected)
        assert role_of(leader) is Role.STANDBY
        assert leader.core is None


def test_a_message_after_a_silence_begins_a_takeover_even_before_a_tick() -> None:
    leader = new()
    lead(leader)
    assert hellos(leader.received(m.SchedulerProbe("x", 2), 100.0)) == ["s1.2"]


def test_a_missing_probe_begins_a_takeover() -> None:
    leader = new()
    lead(leader)
    assert not hellos(leader.received(m.SchedulerProbe("s1", 1), 0.1))
    assert not hellos(leader.received(m.SchedulerProbe("s1", 2), 0.2))
    assert hellos(leader.received(m.SchedulerProbe("s1", 4), 0.3))


def test_another_schedulers_higher_term_begins_a_takeover_and_a_lower_one_does_not() -> None:
    leader = new()
    lead(leader, term=5)
    assert not hellos(leader.received(m.JobsSnapshot("s0.9", 4, 0, last=True), 0.1))
    assert hellos(leader.received(m.JobsSnapshot("s2.1", 6, 0, last=True), 0.2))
