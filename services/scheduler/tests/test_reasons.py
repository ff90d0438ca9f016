"""What `qonduit queue` shows: each thing that waits says for what, with numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qonduit_service_kit import messages as m
from qonduit_service_kit.messages import Shape

if TYPE_CHECKING:
    from collections.abc import Callable

GIB = 1024**3


def reasons(world: Any) -> dict[str, str]:
    world.tick(2.0)
    return {view.job_id: view.why for view in world.bodies(m.ClusterReport)[-1].waiting}


def test_the_limit_of_the_job_in_each_dimension(new_world: Callable[..., Any], job: Any) -> None:
    for limit, asked, expected in (
        (Shape(2000, 8 * GIB, 4), {}, "needs 1 cpu; 2 of the job's limit of 2 cpu are in use"),
        (Shape(9000, 3 * GIB, 4), {"mem": 1.5}, "needs 1.5 GiB; 3.0 GiB of the job's limit of 3.0 GiB are in use"),
        (Shape(9000, 8 * GIB, 2), {"gpus": 1}, "needs 1 gpus; 2 of the job's limit of 2 gpus are in use"),
    ):
        world = new_world()
        world.start_worker("w1", gpus=4)
        world.pass_time(5)
        world.submit(job("j1"))
        world.drain()
        world.want("j1", 5, limit=limit, **asked)
        world.drain()
        assert len(world.executors_of("j1")) == 2
        assert reasons(world) == {"j1": expected}
        (view,) = world.bodies(m.ClusterReport)[-1].waiting
        assert (view.count, view.position, view.user, view.since) == (3, 1, "ada", world.now - 2.0)
        world.want("j1", 2, limit=limit, **asked)
        world.drain()
        assert not reasons(world)


def test_a_worker_kept_for_another_names_that_one(world: Any, job: Any) -> None:
    world.submit(job("running", cpu=4))
    world.submit(job("big", user="bob", cpu=14))
    world.pass_time(130)
    world.submit(job("small", user="eve", cpu=4))
    world.drain()
    told = reasons(world)
    assert told["small"] == ("needs 4 cpu and 1.0 GiB; w1 is kept free for bob's job big, which is more urgent")
    assert told["big"] == "needs 14 cpu; the largest free is 12 on w1; w1 is kept free for it"


def test_one_who_holds_much_is_told_the_share(world: Any, job: Any) -> None:
    world.submit(job("first", cpu=12))
    world.submit(job("other", user="bob", cpu=4))
    world.drain()
    world.submit(job("second", cpu=8))
    world.drain()
    assert reasons(world)["second"] == (
        "needs 8 cpu; the largest free is 0 on w1; w1 is kept free for it; ada holds 75% of the cluster, far beyond "
        "the fair share of 50%, so those who hold less go first"
    )


def test_missing_gpus_are_named(new_world: Callable[..., Any], job: Any) -> None:
    world = new_world()
    world.start_worker("w1", gpus=2)
    world.pass_time(5)
    world.submit(job("j1", gpus=2))
    world.submit(job("j2", gpus=1))
    world.drain()
    assert reasons(world) == {"j2": "needs 1 gpus; the most free is 0 on w1; w1 is kept free for it"}
