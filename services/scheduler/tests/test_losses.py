from __future__ import annotations

from typing import Any

import pytest
from qonduit_service_kit import messages as m
from qonduit_service_kit.messages import LeaseKind


@pytest.fixture
def spread(world: Any, job: Any) -> Any:
    """Job j1's driver fills w1, two executors of it run on w2."""
    world.submit(job("j1", cpu=16, mem=8))
    world.drain()
    world.start_worker("w2")
    world.drain()
    world.want("j1", 2)
    world.drain()
    assert {worker.worker_id for worker, _ in world.executors_of("j1")} == {"w2"}
    return world


def test_a_silent_workers_attempts_and_executors_are_lost(spread: Any) -> None:
    spread.kill_worker("w2")
    spread.pass_time(40)
    assert not spread.bodies(m.ExecutorLost)
    spread.pass_time(10)
    assert len(spread.bodies(m.ExecutorLost)) == 2
    spread.kill_worker("w1")
    spread.pass_time(50)
    (lost,) = spread.bodies(m.AttemptLost)
    assert (lost.job_id, lost.attempt, lost.worker_id) == ("j1", 1, "w1")
    spread.start_worker("w3")
    spread.pass_time(5)
    assert spread.driver_of("j1")[1].attempt == 2


def test_a_restarted_workers_leases_are_lost_at_once(spread: Any) -> None:
    spread.kill_worker("w1")
    spread.start_worker("w1")
    spread.drain()
    assert [body.attempt for body in spread.bodies(m.AttemptLost)] == [1]
    assert spread.driver_of("j1")[1].attempt == 2
    assert all(status.attempt == 2 for _, status in spread.executors_of("j1"))


def test_a_late_heartbeat_of_a_former_life_is_ignored(spread: Any) -> None:
    spread.heartbeat("w2")
    late = spread.inbox.pop()
    spread.kill_worker("w2")
    spread.start_worker("w2")
    spread.drain()
    spread.inbox.append(late)
    spread.drain()
    assert spread.core.picture.fleet.workers["w2"].incarnation == spread.workers["w2"].incarnation


def test_a_lease_that_its_worker_no_longer_reports_is_lost(spread: Any) -> None:
    (_, gone), _ = spread.executors_of("j1")
    del spread.workers["w2"].leases[gone.lease_id]
    spread.heartbeat("w2")
    spread.drain()
    (lost,) = spread.bodies(m.ExecutorLost)
    assert lost.lease_id == gone.lease_id
    assert len(spread.executors_of("j1")) == 2, "and another takes its place"


def test_a_grant_that_never_arrives_is_lost_after_the_grant_timeout(world: Any, job: Any) -> None:
    world.submit(job("j1"))
    world.step_scheduler()
    world.workers["w1"].inbox.clear()
    world.heartbeat("w1")
    world.drain()
    assert not world.bodies(m.AttemptLost)
    world.pass_time(15)
    assert world.driver_of("j1")[1].attempt == 2


def test_a_refused_grant_goes_elsewhere_with_the_same_attempt(world: Any, job: Any) -> None:
    world.start_worker("w2", cpu=32, mem=32)
    world.drain()
    world.submit(job("j1"))
    world.step_scheduler()
    (grant,) = world.workers["w1"].inbox
    world.workers["w1"].inbox.clear()
    world.inbox.append(m.LeaseEnded("w1", grant.lease_id, "no room", refused=True))
    world.drain()
    worker, lease = world.driver_of("j1")
    assert (worker.worker_id, lease.attempt) == ("w2", 1)


def test_goodbye_frees_everything(spread: Any) -> None:
    worker = spread.workers["w2"]
    spread.kill_worker("w2")
    spread.inbox.append(m.WorkerStopped("w2", worker.incarnation))
    spread.drain()
    assert len(spread.bodies(m.ExecutorLost)) == 2
    assert list(spread.core.picture.fleet.workers) == ["w1"]


def test_duplicates_of_an_end_change_nothing(spread: Any) -> None:
    worker, executor = spread.executors_of("j1")[0]
    spread.end_lease(worker.worker_id, executor.lease_id)
    end = spread.inbox[-1]
    spread.inbox.append(end)
    spread.drain()
    assert len(spread.executors_of("j1")) == 2


# --- Takeover ------------------------------------------------------------------------------------


def test_a_new_leader_adopts_what_runs(spread: Any) -> None:
    before = {lease for worker in spread.workers.values() for lease in worker.leases}
    spread.take_over()
    spread.drain()
    spread.pass_time(60)
    assert {lease for worker in spread.workers.values() for lease in worker.leases} == before
    assert not spread.bodies(m.AttemptLost)
    assert not spread.bodies(m.ExecutorLost)
    assert not spread.bodies(m.LeaseRevoked)


def test_a_new_leader_misses_a_worker_that_is_gone(spread: Any) -> None:
    spread.kill_worker("w1")
    spread.take_over()
    spread.pass_time(40)
    assert not spread.bodies(m.AttemptLost)
    spread.pass_time(10)
    assert [body.worker_id for body in spread.bodies(m.AttemptLost)] == ["w1"]


def test_a_new_leader_hears_of_executors_lost_while_nobody_looked(spread: Any) -> None:
    held = tuple((status.lease_id, worker.worker_id) for worker, status in spread.executors_of("j1"))
    spread.want("j1", 2, executors=held)
    spread.drain()
    spread.kill_worker("w2")
    spread.take_over()
    spread.pass_time(50)
    assert {body.lease_id for body in spread.bodies(m.ExecutorLost)} == {lease for lease, _ in held}


def test_a_queued_job_that_an_earlier_leader_placed_runs_once(world: Any, job: Any) -> None:
    world.start_worker("w2")
    world.drain()
    world.submit(job("j1"))
    world.crash_in_handling()
    world.drain()
    world.pass_time(5)
    assert world.driver_of("j1") is not None
    world.submit(job("j2"))
    world.step_scheduler()
    # Granted, not yet known to the gateway, when the next leader comes.
    world.take_over()
    world.drain()
    world.pass_time(10)
    assert world.driver_of("j2") is not None
    assert [body.lease_id.split("-")[0] for body in world.bodies(m.DriverGranted)] == ["2", "2"]


def test_a_job_ended_during_a_takeover_does_not_come_back(spread: Any) -> None:
    spread.cancel("j1")
    spread.take_over(early=1)
    spread.drain()
    assert spread.driver_of("j1") is None
    assert not any(worker.leases for worker in spread.workers.values())


def test_no_grant_to_a_worker_that_may_still_get_an_older_leaders(world: Any, job: Any) -> None:
    world.submit(job("j1"))
    world.step_scheduler()
    world.take_over()
    world.heartbeat("w1")
    world.submit(job("j2", cpu=16))
    while world.inbox:
        world.step_scheduler()
    world.tick(2.5)
    assert not [body for body in world.bodies(m.DriverGranted) if body.spec.job_id == "j2"]
    world.drain()
    world.pass_time(5)
    assert world.driver_of("j1") is not None
    assert world.driver_of("j2") is None


def test_grants_carry_the_term_and_the_workers_life(world: Any, job: Any) -> None:
    world.take_over()
    world.drain()
    world.submit(job("j1"))
    world.drain()
    (grant,) = world.bodies(m.DriverGranted)
    assert (grant.term, grant.incarnation) == (2, world.workers["w1"].incarnation)
    kinds = {status.kind for status in world.workers["w1"].leases.values()}
    assert kinds == {LeaseKind.DRIVER}


def test_a_job_whose_end_never_reached_the_gateway_is_lost_and_not_stuck(world: Any, job: Any) -> None:
    world.submit(job("j1"))
    world.drain()
    _, lease = world.driver_of("j1")
    world.end_lease("w1", lease.lease_id)
    world.gateway_inbox.pop()
    world.pass_time(55)
    assert world.driver_of("j1") is None
    world.pass_time(10)
    assert world.driver_of("j1")[1].attempt == 2


def test_an_end_that_the_gateway_heard_of_is_no_loss(world: Any, job: Any) -> None:
    world.submit(job("j1"))
    world.drain()
    _, lease = world.driver_of("j1")
    world.end_lease("w1", lease.lease_id)
    world.pass_time(300)
    assert not world.bodies(m.AttemptLost)
    assert not world.core.picture.unanswered


@pytest.mark.parametrize("cpu", [1, 64])
def test_what_the_gateway_does_not_answer_is_told_again_and_not_for_ever(world: Any, job: Any, cpu: int) -> None:
    kind = m.AttemptLost if cpu == 1 else m.PlacementRefused
    world.step_gateway = world.gateway_inbox.clear
    world.submit(job("j1", cpu=cpu))
    world.drain()
    world.workers["w1"].leases.clear()
    world.pass_time(100)
    assert len(world.bodies(kind)) == 2
    world.pass_time(2 * 3600)
    assert 2 < len(world.bodies(kind)) < 10
    assert not world.core.picture.unanswered
