"""Users who may have only so many jobs running: the others of them wait, and nobody else does for that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qonduit_service_kit import messages as m
from qonduit_service_kit.messages import LeaseKind

if TYPE_CHECKING:
    from collections.abc import Callable


def submit(world: Any, job: Callable[..., m.JobSpec], *names: str, most: int | None = 2, **spec: Any) -> None:
    for name in names:
        world.submit(job(name, user_running_jobs=most, submitted_at=float(len(world.jobs)), **spec))
    world.drain()


def running(world: Any) -> list[str]:
    return [name for name in world.jobs if world.driver_of(name) is not None]


def end(world: Any, name: str) -> None:
    worker, status = world.driver_of(name)
    world.end_lease(worker.worker_id, status.lease_id)
    world.drain()


def reported(world: Any) -> dict[str, str]:
    """Return why each job waits, by what the scheduler reports next."""
    world.tick(world.settings.report_quiet_s)
    return {view.job_id: view.why for view in world.bodies(m.ClusterReport)[-1].waiting}


def test_no_more_than_that_run_and_the_next_begins_as_one_ends(world: Any, job: Any) -> None:
    submit(world, job, "a", "b", "c", "d")
    assert running(world) == ["a", "b"]
    assert reported(world) == dict.fromkeys(
        ("c", "d"), "ada has 2 jobs running and may have 2; this one waits for their end"
    )
    end(world, "a")
    assert running(world) == ["b", "c"]
    world.cancel("c")
    world.drain()
    assert running(world) == ["b", "d"]


def test_what_is_told_again_while_it_waits_brings_its_younger_ticket(world: Any, job: Any) -> None:
    submit(world, job, "a", "b", most=1)
    world.handle(m.JobSubmitted(job("b", user_running_jobs=1, submitted_at=1.0, storage_ticket="younger")))
    world.handle(m.JobSubmitted(job("a", user_running_jobs=1, submitted_at=0.0, storage_ticket="younger")))
    end(world, "a")
    assert [(sent.spec.job_id, sent.spec.storage_ticket) for sent in world.bodies(m.DriverGranted)] == [
        ("a", "t"),
        ("b", "younger"),
    ]


def test_priority_counts_among_those_that_wait(world: Any, job: Any) -> None:
    submit(world, job, "first", "early", most=1)
    submit(world, job, "urgent", most=1, priority=5)
    end(world, "first")
    assert running(world) == ["urgent"]


def test_others_and_the_tasks_of_what_runs_go_on(world: Any, job: Any) -> None:
    submit(world, job, "a", "b", most=1)
    submit(world, job, "c", most=None, user="bob")
    world.want("a", 3, cpu=1, mem=1)
    world.drain()
    assert running(world) == ["a", "c"]
    assert len(world.executors_of("a")) == 3
    assert "may have 1" in reported(world)["b"]


def test_nothing_is_kept_free_for_one_that_is_held(world: Any, job: Any) -> None:
    submit(world, job, "a", most=1, cpu=10)
    submit(world, job, "large", most=1, cpu=16)
    world.pass_time(200)
    assert not world.core.picture.reservations
    submit(world, job, "c", most=None, user="bob", cpu=6)
    assert running(world) == ["a", "c"]
    end(world, "a")
    world.pass_time(2)
    assert [kept.user for kept in world.core.picture.reservations.values()] == ["ada"], "now it waits for room"


def test_a_reservation_goes_when_its_user_comes_to_the_limit(world: Any, job: Any) -> None:
    submit(world, job, "a", most=None, user="bob", cpu=8)
    submit(world, job, "large", most=1, cpu=16)
    world.pass_time(5)
    assert [kept.user for kept in world.core.picture.reservations.values()] == ["ada"]
    submit(world, job, "b", most=None, user="bob", cpu=8)
    world.start_worker("w2", cpu=2)
    submit(world, job, "small", most=1, priority=9)
    assert running(world) == ["a", "b", "small"]


def test_waiting_for_an_own_job_is_no_claim_to_others_executors(world: Any, job: Any) -> None:
    submit(world, job, "a", most=1, cpu=4)
    submit(world, job, "b", most=1, cpu=8)
    submit(world, job, "c", most=None, user="bob", cpu=1)
    world.want("c", 40, cpu=1, mem=0.25)
    world.pass_time(2 * world.settings.claim_after_s)
    assert len(world.executors_of("c")) == 11
    end(world, "a")
    world.pass_time(world.settings.yield_after_s - 1)
    assert not world.bodies(m.LeaseRevoked)
    world.pass_time(3)
    assert world.bodies(m.LeaseRevoked), "now it has waited for room"


def test_a_limit_that_is_raised_or_lowered_holds_for_what_waits(world: Any, job: Any) -> None:
    submit(world, job, "a", "b", "c", "d", "e", most=1)
    assert running(world) == ["a"]
    world.handle(m.UserLimited("ada", 3))
    world.drain()
    assert running(world) == ["a", "b", "c"]
    world.handle(m.UserLimited("ada", 1))
    world.drain()
    end(world, "a")
    assert running(world) == ["b", "c"]
    assert "ada has 2 jobs running and may have 1" in reported(world)["d"]
    end(world, "b")
    assert running(world) == ["c"]
    world.handle(m.UserLimited("ada", None))
    world.drain()
    assert running(world) == ["c", "d", "e"]


def test_one_that_no_worker_could_hold_is_refused_also_while_it_is_held(world: Any, job: Any) -> None:
    world.start_worker("large", cpu=64, mem=64)
    world.drain()
    submit(world, job, "a", most=1, cpu=16)
    submit(world, job, "b", most=1, cpu=48)
    submit(world, job, "c", most=1, cpu=99)
    assert world.jobs["c"].refusal
    assert not world.jobs["b"].refusal
    worker, _ = world.driver_of("a")
    assert worker.worker_id == "w1"
    world.kill_worker("large")
    world.pass_time(world.settings.lease_ttl_s + world.settings.grace_s + world.settings.departed_s + 20)
    assert "48 cpu" in world.jobs["b"].refusal


def test_a_new_leader_counts_what_an_earlier_one_may_have_placed(world: Any, job: Any) -> None:
    submit(world, job, "a", "b", "c")
    # The gateway has not heard that these run: to the new leader they look queued.
    for name in ("a", "b"):
        world.jobs[name].state = "QUEUED"
    world.start_worker("w2")
    world.drain()
    world.take_over()
    # One worker has answered its election, the one that runs them has not.
    world.step_worker("w2")
    world.submit(job("new", user_running_jobs=2, submitted_at=9.0))
    world.submit(job("other", user="bob", submitted_at=9.0))
    while world.inbox:
        world.step_scheduler()
    assert [sent.spec.job_id for sent in world.bodies(m.DriverGranted) if sent.term == world.term] == ["other"]
    world.pass_time(10)
    assert running(world) == ["a", "b", "other"]
    end(world, "b")
    assert running(world) == ["a", "c", "other"]


def test_after_a_takeover_no_more_than_that_run(world: Any, job: Any) -> None:
    submit(world, job, "a", "b", "c")
    world.take_over()
    submit(world, job, "d")
    world.pass_time(10)
    assert running(world) == ["a", "b"]
    kinds = [lease.kind for worker in world.workers.values() for lease in worker.leases.values()]
    assert kinds == [LeaseKind.DRIVER] * 2
