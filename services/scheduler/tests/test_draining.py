from __future__ import annotations

from typing import Any

import pytest
from qonduit_service_kit import messages as m


def drain_worker(world: Any, name: str) -> None:
    world.workers[name].draining = True
    world.heartbeat(name)
    world.drain()


@pytest.fixture
def running(world: Any, job: Any) -> Any:
    """The world with j1's driver on w1, two executors there, and an empty worker w2."""
    world.submit(job("j1"))
    world.drain()
    world.want("j1", 2)
    world.drain()
    world.start_worker("w2", cpu=8, mem=8)
    world.drain()
    return world


def test_busy_executors_go_after_the_task_in_hand_and_others_come_elsewhere(running: Any) -> None:
    drain_worker(running, "w1")
    assert len(running.workers["w1"].ending) == 2
    on_w2 = [status for worker, status in running.executors_of("j1") if worker.worker_id == "w2"]
    assert len(on_w2) == 2, "their tasks go on elsewhere"
    for lease_id in list(running.workers["w1"].ending):
        running.end_lease("w1", lease_id)
    running.drain()
    assert running.driver_of("j1")[0].worker_id == "w1", "the program runs to its end"
    assert len(running.workers["w1"].leases) == 1


def test_idle_executors_go_at_once(running: Any) -> None:
    running.want("j1", 0)
    for worker, status in running.executors_of("j1"):
        running.set_idle(worker.worker_id, status.lease_id)
    drain_worker(running, "w1")
    assert not running.executors_of("j1")


def test_executors_that_no_other_worker_could_hold_finish_their_tasks(world: Any, job: Any) -> None:
    world.submit(job("j1"))
    world.drain()
    world.want("j1", 1, cpu=12, mem=2)
    world.start_worker("w2", cpu=8, mem=8)
    world.drain()
    drain_worker(world, "w1")
    world.pass_time(30)
    assert len(world.executors_of("j1")) == 1
    assert not world.workers["w1"].ending
    world.start_worker("w3", cpu=16, mem=16)
    world.pass_time(5)
    assert len(world.workers["w1"].ending) == 1, "once another one could, it is asked to go"


def test_a_drained_worker_becomes_empty_and_serves_again_when_it_is_put_back(running: Any, job: Any) -> None:
    drain_worker(running, "w1")
    for lease_id in list(running.workers["w1"].ending):
        running.end_lease("w1", lease_id)
    worker, driver = running.driver_of("j1")
    running.end_lease(worker.worker_id, driver.lease_id)
    running.drain()
    assert not running.workers["w1"].leases
    running.submit(job("j2", cpu=16))
    running.drain()
    assert running.driver_of("j2") is None
    running.workers["w1"].draining = False
    running.heartbeat("w1")
    running.drain()
    assert running.driver_of("j2") is None, "it can never fit a draining worker, so it was refused"
    running.submit(job("j3", cpu=16))
    running.drain()
    assert running.driver_of("j3") is not None


def test_what_waits_says_that_a_worker_is_draining(running: Any, job: Any) -> None:
    running.submit(job("filler", user="bob", cpu=6, mem=1))
    running.drain()
    drain_worker(running, "w1")
    running.submit(job("j2", user="eve", cpu=5, mem=1))
    running.drain()
    running.tick(5)
    (view,) = [view for view in running.bodies(m.ClusterReport)[-1].waiting if view.job_id == "j2"]
    assert view.why == "needs 5 cpu; the largest free is 0 on w2; w2 is kept free for it; w1 has room but is draining"


def test_a_cluster_of_draining_workers_only_says_so(world: Any, job: Any) -> None:
    drain_worker(world, "w1")
    world.submit(job("j1"))
    world.drain()
    world.tick(5)
    (view,) = world.bodies(m.ClusterReport)[-1].waiting
    assert view.why == "no connected worker takes anything new: w1 is draining"
