from __future__ import annotations

from typing import Any

import pytest
from qonduit_service_kit import messages as m
from qonduit_service_kit.messages import Shape

GIB = 1024**3


@pytest.fixture
def running(world: Any, job: Any) -> Any:
    """The world with job j1's driver (1 cpu, 1 GiB) on w1."""
    world.submit(job("j1"))
    world.drain()
    return world


def test_as_many_executors_as_there_are_tasks(running: Any) -> None:
    running.want("j1", 3)
    running.drain()
    assert len(running.executors_of("j1")) == 3
    grant = running.bodies(m.ExecutorGranted)[0]
    assert (grant.driver_worker_id, grant.user, grant.shape) == ("w1", "ada", Shape(1000, GIB))


def test_executors_are_told_what_the_function_depends_on(running: Any) -> None:
    running.want("j1", 1, dependencies=("numpy>=2",), qpu_budget_s=60.0, user_qpu_budget_s=600.0)
    running.drain()
    granted = running.bodies(m.ExecutorGranted)[0]
    assert granted.dependencies == ("numpy>=2",)
    assert (granted.qpu_budget_s, granted.user_qpu_budget_s) == (60.0, 600.0)


def test_executors_are_told_where_the_files_of_their_programs_are(running: Any) -> None:
    running.want("j1", 1, space="functions/acme/solver/ada", provider_space="providers/acme/solver")
    running.drain()
    granted = running.bodies(m.ExecutorGranted)[0]
    assert granted.space == "functions/acme/solver/ada"
    assert granted.provider_space == "providers/acme/solver"


def test_no_more_executors_than_fit_and_more_when_room_comes(running: Any) -> None:
    running.want("j1", 100, mem=0.1)
    running.drain()
    assert len(running.executors_of("j1")) == 15
    running.tick(1.0)
    (waiting,) = running.bodies(m.ClusterReport)[-1].waiting
    assert (waiting.count, waiting.why) == (85, "needs 1 cpu; the largest free is 0 on w1; w1 is kept free for it")
    running.set_waiting("j1", waiting=True)
    running.drain()
    assert len(running.executors_of("j1")) == 16


def test_the_job_limit_holds_for_all_shapes_together(running: Any) -> None:
    running.start_worker("w2", cpu=64, mem=64)
    running.drain()
    limit = Shape(4000, 32 * GIB)
    running.want("j1", 3, cpu=1, limit=limit)
    running.drain()
    running.want("j1", 10, cpu=0.5, limit=limit)
    running.drain()
    held = sum(status.shape.cpu_millis for _, status in running.executors_of("j1"))
    assert held == 4000


def test_a_task_of_all_cpus_runs_beside_its_waiting_driver(running: Any) -> None:
    running.want("j1", 1, cpu=16, mem=2)
    running.drain()
    assert not running.executors_of("j1")
    running.set_waiting("j1", waiting=True)
    running.drain()
    assert len(running.executors_of("j1")) == 1


def test_nothing_new_while_a_driver_that_went_on_overdraws_the_cpu(running: Any, job: Any) -> None:
    running.want("j1", 17, mem=0.1)
    running.set_waiting("j1", waiting=True)
    running.drain()
    assert len(running.executors_of("j1")) == 16
    running.set_waiting("j1", waiting=False)
    running.drain()
    assert running.core.picture.fleet.workers["w1"].free.cpu_millis == -1000
    worker, executor = running.executors_of("j1")[0]
    running.end_lease(worker.worker_id, executor.lease_id)
    running.drain()
    assert len(running.executors_of("j1")) == 15
    running.submit(job("j2"))
    running.drain()
    assert running.driver_of("j2") is None


def test_executors_prefer_the_drivers_worker(running: Any) -> None:
    running.start_worker("w0", cpu=1, mem=1)
    running.drain()
    running.want("j1", 1)
    running.drain()
    assert [worker.worker_id for worker, _ in running.executors_of("j1")] == ["w1"]


def test_a_shape_beyond_the_job_limit_is_refused_with_the_numbers(running: Any) -> None:
    running.want("j1", 1, cpu=32, mem=2)
    running.drain()
    (refusal,) = running.bodies(m.DemandRefused)
    assert refusal.text == (
        "a task needs 32 cpu and 2.0 GiB; this job's tasks may hold at most 16 cpu and 32.0 GiB together. "
        "Ask for less, or for a higher limit."
    )


def test_a_shape_that_never_fits_beside_the_driver_is_refused(running: Any) -> None:
    running.want("j1", 1, cpu=1, mem=15.5)
    running.drain()
    (refusal,) = running.bodies(m.DemandRefused)
    assert "needs 1 cpu and 15.5 GiB; the largest worker offers 16 cpu and 15.0 GiB" in refusal.text
    running.want("j1", 1, cpu=1, mem=15)
    running.drain()
    assert len(running.executors_of("j1")) == 1


def test_an_older_demand_changes_nothing(running: Any) -> None:
    running.want("j1", 2)
    running.want("j1", 0)
    running.inbox.reverse()
    running.drain()
    assert not running.executors_of("j1")


def idle_all(world: Any, job_id: str) -> None:
    for worker, status in world.executors_of(job_id):
        world.set_idle(worker.worker_id, status.lease_id)
    world.drain()


def test_idle_executors_go_back_after_a_while(running: Any) -> None:
    running.want("j1", 2)
    running.drain()
    running.want("j1", 0)
    idle_all(running, "j1")
    running.tick(1.0)
    running.drain()
    assert len(running.executors_of("j1")) == 2
    running.tick(1.5)
    running.drain()
    assert not running.executors_of("j1")


def test_idle_executors_go_back_at_once_when_others_wait(running: Any, job: Any) -> None:
    running.want("j1", 15, mem=0.1)
    running.drain()
    running.submit(job("j2", user="bob", cpu=4))
    running.want("j1", 11, mem=0.1)
    idle_all(running, "j1")
    running.tick(0.1)
    running.drain()
    assert running.driver_of("j2") is not None
    assert len(running.executors_of("j1")) == 11


def test_a_greedy_user_gives_executors_back_to_one_who_waits(running: Any, job: Any) -> None:
    running.want("j1", 1000, mem=0.1)
    running.drain()
    running.submit(job("j2", user="bob", cpu=2))
    running.drain()
    running.pass_time(8)
    busy = running.workers["w1"]
    assert len(busy.ending) == 2, "two executors finish the task in hand and go"
    for lease_id in list(busy.ending):
        running.end_lease("w1", lease_id)
    running.drain()
    assert running.driver_of("j2") is not None
    running.pass_time(60)
    assert not busy.ending, "and no more than that is asked for"


def test_executors_end_with_their_job(running: Any) -> None:
    running.want("j1", 4)
    running.drain()
    worker, lease = running.driver_of("j1")
    running.end_lease(worker.worker_id, lease.lease_id)
    running.drain()
    assert not running.executors_of("j1")
    assert running.core.picture.fleet.workers["w1"].used == Shape(0, 0, 0)
    assert not running.core.picture.fairness.used


def test_an_older_word_about_waiting_changes_nothing(running: Any) -> None:
    running.set_waiting("j1", waiting=True)
    running.set_waiting("j1", waiting=False)
    running.inbox.reverse()
    running.step_scheduler()
    running.step_scheduler()
    assert running.core.picture.fleet.workers["w1"].free.cpu_millis == 15000
