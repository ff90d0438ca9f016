"""The order of what waits: short by prediction first, nothing for ever, users by share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from qonduit_scheduler.policy import PolicySettings, due_after
from qonduit_scheduler.prediction import RunTimes
from qonduit_scheduler.settings import SchedulerSettings
from qonduit_service_kit.messages import LeaseKind

if TYPE_CHECKING:
    from collections.abc import Callable

DRIVER, EXECUTOR = LeaseKind.DRIVER, LeaseKind.EXECUTOR


def test_a_prediction_is_the_geometric_mean_of_the_users_last_six_of_that_name() -> None:
    known = RunTimes(60.0)
    assert known.predict(DRIVER, "ada", "f") == 60.0
    assert known.promise(DRIVER, "ada", "f") == math.inf
    for run_s in (5000.0, 10.0, 10.0, 10.0, 20.0, 20.0, 20.0):
        known.ran(DRIVER, "ada", "f", run_s)
    assert known.predict(DRIVER, "ada", "f") == known.promise(DRIVER, "ada", "f") == pytest.approx(200**0.5)
    of_all = pytest.approx((5000 * 10**3 * 20**3) ** (1 / 7))
    assert known.predict(DRIVER, "ada", "g") == of_all, "else of that user's last few"
    assert known.predict(DRIVER, "bob", "f") == of_all, "else of everybody's"
    assert known.promise(DRIVER, "bob", "f") == math.inf, "but that is no promise"
    assert known.predict(EXECUTOR, "ada", "f") == 60.0, "tasks and programs are told apart"


def test_what_others_computed_replaces_what_was_known_of_the_name() -> None:
    known = RunTimes(60.0)
    known.told(EXECUTOR, "ada", "t", 4.0)
    known.told(EXECUTOR, "ada", "t", 2.0)
    assert known.predict(EXECUTOR, "ada", "t") == 2.0


def run_once(world: Any, spec: Any, seconds: float) -> None:
    world.submit(spec)
    world.drain()
    world.pass_time(seconds)
    worker, lease = world.driver_of(spec.job_id)
    world.end_lease(worker.worker_id, lease.lease_id)
    world.drain()


def served_next(world: Any, running: str) -> list[str]:
    """End the running job again and again; return who came after it, in order."""
    served = []
    while driver := world.driver_of(running):
        world.end_lease(driver[0].worker_id, driver[1].lease_id)
        world.drain()
        names = sorted({lease.job_id for lease in world.workers["w1"].leases.values()})
        running = names[0] if names else running
        served.extend(names)
    return served


def test_short_by_prediction_goes_first(world: Any, job: Any) -> None:
    run_once(world, job("l0", function_title="long"), 100)
    run_once(world, job("s0", function_title="short"), 5)
    world.submit(job("first", cpu=16))
    world.drain()
    world.submit(job("long", cpu=16, function_title="long", submitted_at=1.0))
    world.submit(job("short", cpu=16, function_title="short", submitted_at=2.0))
    world.drain()
    assert served_next(world, "first") == ["short", "long"]


def test_a_long_one_that_has_waited_its_time_goes_before_new_short_ones(world: Any, job: Any) -> None:
    run_once(world, job("l0", function_title="long"), 100)
    run_once(world, job("s0", function_title="short"), 5)
    world.submit(job("first", cpu=16))
    world.drain()
    world.submit(job("long", cpu=16, function_title="long", submitted_at=1.0))
    world.submit(job("short", cpu=16, function_title="short", submitted_at=2500.0))
    world.drain()
    assert served_next(world, "first") == ["long", "short"]


def test_tasks_told_to_be_short_go_before_long_ones_of_another_job(world: Any, job: Any) -> None:
    world.submit(job("a", submitted_at=1.0))
    world.submit(job("b", submitted_at=1.0))
    world.submit(job("filler", cpu=14, mem=1))
    world.drain()
    world.want("a", 4, cpu=2, mem=0.5, task_name="slow", task_s=50.0)
    world.want("b", 4, cpu=2, mem=0.5, task_name="quick", task_s=0.5)
    world.drain()
    worker, lease = world.driver_of("filler")
    world.end_lease(worker.worker_id, lease.lease_id)
    world.drain()
    assert (len(world.executors_of("b")), len(world.executors_of("a"))) == (4, 3)


def test_what_ends_in_time_passes_a_reservation_and_what_is_long_does_not(world: Any, job: Any) -> None:
    run_once(world, job("l0", function_title="long"), 300)
    run_once(world, job("s0", function_title="short"), 5)
    world.submit(job("running", cpu=4, function_title="long"))
    world.drain()
    world.submit(job("big", cpu=14, user="bob"))
    world.pass_time(130)
    # About 170 s are left of the running one, beside which 14 of the 12 free are kept.
    world.submit(job("wide-long", cpu=8, function_title="long"))
    world.submit(job("wide-short", cpu=8, function_title="short"))
    world.drain()
    assert world.driver_of("wide-long") is None
    assert world.driver_of("wide-short") is not None


def test_the_same_shape_may_wait_when_long_and_pass_when_short_also_for_one_user(world: Any, job: Any) -> None:
    run_once(world, job("l0", function_title="long"), 300)
    run_once(world, job("s0", function_title="short"), 5)
    world.submit(job("running", cpu=4, function_title="long"))
    world.drain()
    world.submit(job("big", cpu=14, user="bob"))
    world.pass_time(130)
    # The long one is first in its lane, as it is overdue.
    world.submit(job("l1", cpu=8, function_title="long", submitted_at=-9000.0))
    world.submit(job("s1", cpu=8, function_title="short", submitted_at=world.now))
    world.drain()
    assert world.driver_of("l1") is None
    assert world.driver_of("s1") is not None


def test_a_user_who_floods_does_not_delay_one_who_holds_nothing(world: Any, job: Any) -> None:
    for number in range(200):
        world.submit(job(f"a{number:03}", cpu=4, mem=1, submitted_at=float(number)))
    world.drain()
    world.pass_time(60)
    world.submit(job("b", user="bob", cpu=4, mem=1, submitted_at=world.now))
    world.drain()
    worker, lease = world.driver_of("a000")
    world.end_lease(worker.worker_id, lease.lease_id)
    world.drain()
    assert world.driver_of("b") is not None


def test_a_long_one_is_due_later_where_much_waits_and_a_short_one_is_not() -> None:
    def due(expected_s: float, backlog_s: float) -> float:
        return due_after(expected_s=expected_s, size=0.1, backlog_s=backlog_s, settings=PolicySettings())

    assert due(1.0, 0.0) == pytest.approx(due(1.0, 9000.0), abs=1.0)
    assert due(1.0, 0.0) < due(600.0, 0.0) < due(600.0, 9000.0) < due(9000.0, 9000.0)
    assert due(9e6, 0.0) - due(600.0, 0.0) < 10.0, "among long ones the first come are the first served"


def test_the_service_runs_the_policy_that_the_simulator_measures() -> None:
    assert SchedulerSettings().policy() == PolicySettings()


small = st.tuples(st.sampled_from([0.5, 1, 2, 5]), st.integers(1, 12), st.sampled_from(["ada", "bob", "eve"]))


@examples(max_examples=30)
@given(big=st.integers(9, 16), stream=st.lists(small, min_size=3, max_size=8), slow=st.booleans())
def test_nothing_waits_for_ever_behind_a_stream_of_small_ones(
    new_world: Callable[..., Any], job: Any, big: int, stream: list[tuple[float, int, str]], *, slow: bool
) -> None:
    """However small ones keep coming, and however much longer than predicted they run."""
    world = new_world(trust_s=300.0, patience_s=300.0)
    world.start_worker("w1")
    world.pass_time(5)
    ends: dict[str, int] = {}
    for step in range(200):
        for number, (cpu, steps, user) in enumerate(stream):
            name = f"s{step}-{number}"
            title = f"f{number}-{step if slow else 0}"
            world.submit(job(name, user=user, cpu=cpu, mem=0.5, submitted_at=world.now, function_title=title))
            ends[name] = step + steps
        if step == 3:
            world.submit(job("big", user="zoe", cpu=big, mem=1, submitted_at=world.now))
        world.pass_time(10)
        if "big" in world.jobs and world.driver_of("big") is not None:
            return
        for name, end in list(ends.items()):
            driver = world.driver_of(name)
            if driver is not None and end <= step:
                world.end_lease(driver[0].worker_id, driver[1].lease_id)
                del ends[name]
        world.drain()
    pytest.fail("the big one never got its place")
