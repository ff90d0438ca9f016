"""Drivers keep their memory while they wait for tasks, so some is left for those: waiting drivers never stand still."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qonduit_service_kit import messages as m

if TYPE_CHECKING:
    from collections.abc import Callable


def cluster(new_world: Callable[..., Any], *memories: float, **policy: int) -> Any:
    """A settled scheduler and workers of so many GiB."""
    world = new_world(**policy)
    for number, memory in enumerate(memories):
        world.start_worker(f"w{number}", cpu=99, mem=memory)
    world.pass_time(5)
    return world


def all_wait_for_one_task(world: Any, mem: float) -> list[str]:
    """Have every driver wait for a task of its own; returns whose task got an executor."""
    placed = [job_id for job_id in world.jobs if world.driver_of(job_id) is not None]
    for job_id in placed:
        worker, status = world.driver_of(job_id)
        world.set_lease_waiting(worker.worker_id, status.lease_id, waiting=True)
        world.want(job_id, 1, mem=mem)
    world.drain()
    return [job_id for job_id in placed if world.executors_of(job_id)]


def test_two_workers_full_of_drivers_have_room_for_their_tasks(new_world: Callable[..., Any], job: Any) -> None:
    world = cluster(new_world, 6, 6)
    for number in range(20):
        world.submit(job(f"j{number}", user=f"user{number % 3}", mem=2))
    world.drain()
    assert sum(world.driver_of(f"j{number}") is not None for number in range(20)) == 4
    assert len(all_wait_for_one_task(world, mem=0.25)) == 4
    world.tick(2.0)
    for view in world.bodies(m.ClusterReport)[-1].waiting:
        text = "needs 3.0 GiB; the largest free is 1.5 GiB on w1; 1.0 GiB of that stay free for tasks"
        assert view.why.startswith(text)
        assert view.shape.mem_bytes == 2 * 1024**3, "what it asked for"


def test_a_driver_that_leaves_no_room_anywhere_runs_all_the_same(new_world: Callable[..., Any], job: Any) -> None:
    world = cluster(new_world, 2)
    world.submit(job("j1", mem=2))
    world.drain()
    assert world.driver_of("j1") is not None


def test_a_driver_that_waited_for_a_large_worker_takes_a_small_one_when_that_is_gone(
    new_world: Callable[..., Any], job: Any
) -> None:
    world = cluster(new_world, 2, 8)
    for name, memory in (("large", 7), ("small", 2)):
        world.submit(job(name, mem=memory))
        world.drain()
    assert world.driver_of("small") is None, "there is room beside it on the large one, which is full for now"
    world.kill_worker("w1")
    world.pass_time(200)
    assert world.driver_of("small") is not None


def test_a_driver_that_no_worker_could_hold_is_refused_as_before(new_world: Callable[..., Any], job: Any) -> None:
    world = cluster(new_world, 4)
    world.submit(job("j1", mem=5))
    world.drain()
    assert "the largest worker offers" in world.jobs["j1"].refusal


def test_a_function_that_starts_no_tasks_needs_no_room_once_that_is_known(
    new_world: Callable[..., Any], job: Any
) -> None:
    world = cluster(new_world, 4)

    def placed(*names: str) -> int:
        for name in names:
            world.submit(job(name, mem=2, function_title="plain"))
        world.drain()
        return sum(world.driver_of(name) is not None for name in names)

    def ended(*names: str) -> None:
        for name in names:
            worker, status = world.driver_of(name)
            world.end_lease(worker.worker_id, status.lease_id)
            world.drain()

    assert placed("j1", "j2") == 1
    ended("j1", "j2")
    assert placed("j3", "j4") == 2
    world.want("j4", 1, mem=0.5)
    world.drain()
    ended("j3", "j4")
    assert placed("j5", "j6") == 1, "one of them had a task"


def test_the_operator_decides_how_much_is_left(new_world: Callable[..., Any], job: Any) -> None:
    for room_gib, expected in ((0, 4), (1, 3), (4, 2)):
        world = cluster(new_world, 8, task_room_bytes=room_gib * 1024**3)
        for number in range(4):
            world.submit(job(f"j{number}", mem=2))
        world.drain()
        assert sum(world.driver_of(f"j{number}") is not None for number in range(4)) == expected


@settings(max_examples=60)
@given(
    workers=st.lists(st.sampled_from([4, 6, 7.5, 16]), min_size=1, max_size=4),
    drivers=st.lists(st.sampled_from([0.5, 1, 2, 2.5, 3]), min_size=1, max_size=24),
)
@pytest.mark.parametrize("mem", [0.25, 1])
def test_no_cluster_of_waiting_drivers_stands_still(
    new_world: Callable[..., Any], job: Any, workers: list[float], drivers: list[float], mem: float
) -> None:
    world = cluster(new_world, *workers)
    for number, memory in enumerate(drivers):
        world.submit(job(f"j{number}", user=f"user{number % 3}", mem=memory))
    world.drain()
    assert all_wait_for_one_task(world, mem)
