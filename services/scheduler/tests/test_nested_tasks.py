"""Executors whose task waits for tasks of its own lend their cpu, so that no job deadlocks on itself."""

from __future__ import annotations

from typing import Any

import pytest
from qonduit_service_kit import messages as m
from qonduit_service_kit.messages import Shape

GIB = 1024**3
LIMIT = Shape(4000, 32 * GIB, 0)


@pytest.fixture
def parents(world: Any, job: Any) -> Any:
    """The world with job j1, whose four executors are all that its limit of 4 cpu allows."""
    world.submit(job("j1"))
    world.drain()
    world.want("j1", 8, mem=0.5, limit=LIMIT)
    world.drain()
    assert len(world.executors_of("j1")) == 4
    return world


def test_a_job_whose_every_executor_waits_gets_others(parents: Any) -> None:
    for worker, status in parents.executors_of("j1"):
        parents.set_lease_waiting(worker.worker_id, status.lease_id, waiting=True)
    parents.drain()
    # Four of the eight unfinished tasks wait; for the others there is the lent cpu, also within the job's limit.
    assert len(parents.executors_of("j1")) == 8
    assert sum(not status.lends_cpu for _, status in parents.executors_of("j1")) == 4


def test_tasks_within_tasks_within_tasks_go_on_as_long_as_memory_lasts(parents: Any) -> None:
    for depth in range(1, 6):
        parents.want("j1", 4 + 4 * depth, mem=0.5, limit=LIMIT)
        for worker, status in parents.executors_of("j1"):
            if not status.lends_cpu:
                parents.set_lease_waiting(worker.worker_id, status.lease_id, waiting=True)
        parents.drain()
        assert len(parents.executors_of("j1")) == 4 + 4 * depth
    used = parents.core.picture.fleet.workers["w1"].used
    assert used == Shape(1000 + 4000, int(1 * GIB + 24 * 0.5 * GIB), 0), "their memory stays theirs"


def test_tasks_that_wait_for_others_of_another_shape_want_no_executors_themselves(parents: Any) -> None:
    parents.want("j1", 4, mem=0.5, limit=LIMIT)
    for worker, status in parents.executors_of("j1"):
        parents.set_lease_waiting(worker.worker_id, status.lease_id, waiting=True)
    parents.want("j1", 2, cpu=2, mem=1, limit=LIMIT)
    parents.drain()
    asked = [status.shape.cpu_millis for _, status in parents.executors_of("j1") if not status.lends_cpu]
    assert asked == [2000, 2000], "idle executors of the parents' shape would take the children's place"


def test_lent_cpu_is_free_for_other_jobs(parents: Any, job: Any) -> None:
    parents.submit(job("j2", user="bob", cpu=12, mem=1))
    parents.drain()
    assert parents.driver_of("j2") is None
    parents.want("j1", 4, mem=0.5, limit=LIMIT)
    (first, *_) = parents.executors_of("j1")
    parents.set_lease_waiting(first[0].worker_id, first[1].lease_id, waiting=True)
    parents.drain()
    assert parents.driver_of("j2") is not None


def test_an_executor_that_goes_on_serves_again_and_overdraws_until_another_ends(parents: Any) -> None:
    (first, *_) = parents.executors_of("j1")
    parents.set_lease_waiting(first[0].worker_id, first[1].lease_id, waiting=True)
    parents.drain()
    assert len(parents.executors_of("j1")) == 5
    parents.set_lease_waiting(first[0].worker_id, first[1].lease_id, waiting=False)
    parents.drain()
    attempt = parents.core.picture.attempts["j1"]
    assert attempt.executors_use.cpu_millis == 5000, "more than the limit, as nothing that runs is ended for it"
    worker, other = parents.executors_of("j1")[-1]
    parents.end_lease(worker.worker_id, other.lease_id)
    parents.drain()
    assert len(parents.executors_of("j1")) == 4, "and nothing more is granted until it is below the limit again"


def test_the_heartbeat_alone_tells_a_new_leader_who_waits(parents: Any) -> None:
    for worker, status in parents.executors_of("j1"):
        parents.set_lease_waiting(worker.worker_id, status.lease_id, waiting=True)
    parents.drain()
    before = parents.core.picture.attempts["j1"].executors_use
    parents.take_over()
    parents.drain()
    parents.pass_time(5)
    assert parents.core.picture.attempts["j1"].executors_use == before
    assert len(parents.executors_of("j1")) == 8


def test_executors_that_wait_are_not_asked_to_go_for_others(parents: Any, job: Any) -> None:
    waiting = [status.lease_id for _, status in parents.executors_of("j1")]
    for lease_id in waiting:
        parents.set_lease_waiting("w1", lease_id, waiting=True)
    parents.drain()
    parents.submit(job("j2", user="bob", cpu=15, mem=1))
    parents.pass_time(200)
    asked = {body.lease_id for body in parents.bodies(m.LeaseRevoked)}
    assert asked, "those that run leaf tasks make room"
    assert not asked & set(waiting)
