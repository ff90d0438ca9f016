from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from qonduit_scheduler.core import Undeliverable
from qonduit_scheduler.policy import PolicySettings
from qonduit_service_kit import messages as m
from qonduit_service_kit.codec import encode
from qonduit_service_kit.messages import LeaseKind

if TYPE_CHECKING:
    from collections.abc import Callable


def test_a_job_is_placed_as_soon_as_it_is_submitted(world: Any, job: Any) -> None:
    world.submit(job("j1"))
    world.drain()
    assert world.driver_of("j1") is not None
    assert world.jobs["j1"].state == "RUNNING"


def test_a_job_that_came_first_waits_for_a_worker(new_world: Callable[..., Any], job: Any) -> None:
    world = new_world()
    world.pass_time(60)
    world.submit(job("j1"))
    world.pass_time(60)
    assert world.driver_of("j1") is None
    report = world.bodies(m.ClusterReport)[-1]
    assert [view.why for view in report.waiting] == ["no worker is connected"]
    world.start_worker("w1")
    world.drain()
    assert world.driver_of("j1") is not None


def test_a_repeated_submission_is_placed_once(world: Any, job: Any) -> None:
    world.submit(job("j1"))
    for _ in range(3):
        world.inbox.append(m.JobSubmitted(world.jobs["j1"].spec))
    world.drain()
    assert len(world.bodies(m.DriverGranted)) == 1


def test_a_submission_after_its_end_is_dropped(world: Any, job: Any) -> None:
    world.submit(job("j1"))
    world.drain()
    worker, lease = world.driver_of("j1")
    world.end_lease(worker.worker_id, lease.lease_id)
    world.inbox.append(m.JobSubmitted(world.jobs["j1"].spec))
    world.drain()
    assert len(world.bodies(m.DriverGranted)) == 1


@pytest.mark.parametrize("cancel_first", [True, False])
def test_a_cancel_beats_a_placement_in_any_order(world: Any, job: Any, *, cancel_first: bool) -> None:
    world.submit(job("j1"))
    if cancel_first:
        world.inbox.appendleft(m.JobWithdrawn("j1", 1))
    else:
        world.inbox.append(m.JobWithdrawn("j1", 1))
    world.jobs["j1"].state = "OVER"
    world.drain()
    assert world.driver_of("j1") is None
    assert not world.core.picture.attempts
    assert not world.core.picture.fleet.workers["w1"].leases


def test_a_job_that_can_never_fit_is_refused_with_the_numbers(world: Any, job: Any) -> None:
    world.submit(job("j1", cpu=64, mem=2))
    world.drain()
    assert world.jobs["j1"].refusal == (
        "needs 64 cpu and 2.0 GiB; the largest worker offers 16 cpu and 16.0 GiB. Ask for less, or add a larger worker."
    )


def test_no_refusal_before_the_workers_have_had_time_to_tell(new_world: Callable[..., Any], job: Any) -> None:
    world = new_world()
    world.start_worker("small", cpu=2)
    world.submit(job("j1", cpu=8))
    world.drain()
    assert not world.jobs["j1"].refusal
    world.start_worker("big", cpu=16)
    world.pass_time(5)
    assert world.driver_of("j1")[0].worker_id == "big"


def test_a_gpu_job_names_gpus_in_its_refusal(world: Any, job: Any) -> None:
    world.submit(job("j1", gpus=2))
    world.drain()
    assert "2 gpus; the largest worker offers 16 cpu, 16.0 GiB and 0 gpus" in world.jobs["j1"].refusal


def test_waiting_jobs_are_refused_once_the_only_fitting_worker_drains(world: Any, job: Any) -> None:
    world.start_worker("big", cpu=64)
    world.drain()
    world.workers["big"].draining = True
    world.heartbeat("big")
    world.drain()
    world.submit(job("j1", cpu=32))
    world.drain()
    assert "largest worker offers 16 cpu" in world.jobs["j1"].refusal


def test_the_tightest_worker_is_chosen(world: Any, job: Any) -> None:
    world.start_worker("w0", cpu=64, mem=64)
    world.start_worker("w2", cpu=4, mem=4)
    world.drain()
    world.submit(job("j1", cpu=2, mem=2))
    world.drain()
    assert world.driver_of("j1")[0].worker_id == "w2"


def test_a_job_without_gpus_leaves_the_gpu_worker_alone(world: Any, job: Any) -> None:
    world.start_worker("w0", cpu=16, mem=16, gpus=4)
    world.drain()
    world.submit(job("j1", cpu=2))
    world.drain()
    assert world.driver_of("j1")[0].worker_id == "w1"


def test_a_draining_worker_gets_nothing_new(world: Any, job: Any) -> None:
    world.workers["w1"].draining = True
    world.heartbeat("w1")
    world.submit(job("j1"))
    world.drain()
    assert world.driver_of("j1") is None
    world.workers["w1"].draining = False
    world.heartbeat("w1")
    world.drain()
    assert world.driver_of("j1") is not None


def test_the_next_job_starts_at_once_when_a_lease_ends(world: Any, job: Any) -> None:
    world.submit(job("j1", cpu=16))
    world.submit(job("j2", cpu=16))
    world.drain()
    assert world.driver_of("j2") is None
    worker, lease = world.driver_of("j1")
    world.end_lease(worker.worker_id, lease.lease_id)
    world.drain()
    assert world.driver_of("j2") is not None


def test_users_take_turns_by_their_dominant_share(world: Any, job: Any) -> None:
    for number in range(8):
        world.submit(job(f"a{number}", user="ada", cpu=4, mem=1, submitted_at=float(number)))
    for number in range(8):
        world.submit(job(f"b{number}", user="bob", cpu=1, mem=4, submitted_at=100.0 + number))
    worker = world.workers["w1"]
    world.drain()
    # Ada came first and holds all cpu; each place that she frees goes to Bob until their shares are level.
    for name in ("a0", "a1"):
        _, lease = world.driver_of(name)
        world.end_lease("w1", lease.lease_id)
        world.drain()
    running = sorted(status.job_id for status in worker.leases.values())
    assert sum(name.startswith("b") for name in running) >= 2
    assert {"b0", "b1"} <= set(running)


def test_priority_then_age_within_a_user(world: Any, job: Any) -> None:
    world.submit(job("first", cpu=16))
    world.drain()
    world.submit(job("young", cpu=16, submitted_at=3.0))
    world.submit(job("old", cpu=16, submitted_at=2.0))
    world.submit(job("urgent", cpu=16, submitted_at=4.0, priority=5))
    world.drain()
    served = []
    for _ in range(4):
        (lease,) = world.workers["w1"].leases.values()
        served.append(lease.job_id)
        world.end_lease("w1", lease.lease_id)
        world.drain()
    assert served == ["first", "urgent", "old", "young"]


def test_what_waits_is_told_with_the_numbers_it_lacks(world: Any, job: Any) -> None:
    world.submit(job("j1", cpu=4))
    world.submit(job("j2", cpu=16))
    world.pass_time(5)
    report = world.bodies(m.ClusterReport)[-1]
    assert [(view.job_id, view.kind, view.position, view.why) for view in report.waiting] == [
        ("j2", LeaseKind.DRIVER, 1, "needs 16 cpu; the largest free is 12 on w1; w1 is kept free for it")
    ]
    assert report.waiting_total == 1
    assert [(view.worker_id, view.leases, view.free.cpu_millis) for view in report.workers] == [("w1", 1, 12000)]


def test_reports_come_once_a_second_at_most_and_every_ten_at_least(world: Any, job: Any) -> None:
    world.tick(20.0)
    before = len(world.bodies(m.ClusterReport))
    for number in range(20):
        world.submit(job(f"j{number}"))
        world.drain()
    assert len(world.bodies(m.ClusterReport)) == before
    for _ in range(30):
        world.tick(1.0)
    assert len(world.bodies(m.ClusterReport)) - before == 3


def test_small_jobs_pass_a_big_one_until_it_has_waited_too_long(world: Any, job: Any) -> None:
    world.submit(job("running", cpu=4))
    world.drain()
    world.submit(job("big", cpu=14))
    world.submit(job("small1", cpu=2))
    world.drain()
    assert world.driver_of("small1") is not None
    world.pass_time(130)
    world.submit(job("small2", cpu=2))
    world.submit(job("small3", cpu=2))
    world.pass_time(5)
    # 14 of 16 are kept: two fit beside, once.
    assert world.driver_of("small2") is not None
    assert world.driver_of("small3") is None
    for name in ("running", "small1"):
        _, lease = world.driver_of(name)
        world.end_lease("w1", lease.lease_id)
    world.drain()
    assert world.driver_of("big") is not None
    assert world.driver_of("small3") is None


def test_a_grant_to_a_vanished_inbox_goes_elsewhere(world: Any, job: Any) -> None:
    world.start_worker("w2", cpu=32, mem=32)
    world.drain()
    world.submit(job("j1"))
    (grant,) = [send for send in world.handle(world.inbox.popleft()) if isinstance(send.body, m.DriverGranted)]
    assert grant.to == m.worker("w1")
    world.workers["w1"].inbox.clear()
    again = world.handle(Undeliverable("w1", grant.body))
    assert [send.to for send in again if isinstance(send.body, m.DriverGranted)] == [m.worker("w2")]


def test_a_users_priority_decides_for_which_job_a_worker_is_kept(world: Any, job: Any) -> None:
    world.submit(job("running", cpu=4))
    world.drain()
    world.submit(job("big", cpu=14))
    world.pass_time(130)
    world.submit(job("urgent", cpu=14, priority=9))
    world.drain()
    for ended, expected in (("running", "urgent"), ("urgent", "big")):
        _, lease = world.driver_of(ended)
        world.end_lease("w1", lease.lease_id)
        world.drain()
        assert world.driver_of(expected) is not None


def test_a_place_kept_for_long_is_not_lost_to_an_urgent_job(world: Any, job: Any) -> None:
    world.submit(job("running", cpu=4))
    world.drain()
    world.submit(job("big", cpu=14))
    world.pass_time(PolicySettings().trust_s + 10)
    world.submit(job("urgent", cpu=14, priority=9))
    world.drain()
    _, lease = world.driver_of("running")
    world.end_lease("w1", lease.lease_id)
    world.drain()
    assert world.driver_of("big") is not None


def test_the_report_of_a_large_cluster_comes_in_pages_that_fit_a_message(world: Any, job: Any) -> None:
    for number in range(300):
        world.start_worker(f"worker-{'n' * 200}-{number}")
    for number in range(700):
        world.submit(job(f"00000000-0000-0000-0000-{number:012}", cpu=16, mem=16))
    world.drain()
    world.sent.clear()
    world.tick(30)
    pages = world.bodies(m.ClusterReport)
    assert [page.page for page in pages] == list(range(len(pages)))
    assert [page.last for page in pages] == [False] * (len(pages) - 1) + [True]
    assert max(len(encode(page)) for page in pages) < 64 * 1024
    assert sum(len(page.workers) for page in pages) == 301
    assert sum(len(page.waiting) for page in pages) == 399
    assert {page.waiting_total for page in pages} == {399}


@pytest.mark.parametrize("count", [1, 500])
def test_an_idle_cluster_takes_all_that_fits(new_world: Callable[..., Any], job: Any, count: int) -> None:
    world = new_world()
    for number in range(count):
        world.start_worker(f"w{number}", cpu=2, mem=3)
    world.drain()
    world.tick(3.0)
    for number in range(2 * count + 1):
        world.submit(job(f"j{number}", user=f"user{number % 7}"))
    world.drain()
    assert len(world.core.picture.line) == 1
