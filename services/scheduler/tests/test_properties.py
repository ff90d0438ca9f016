"""Whatever happens, in whatever order: what the core promises, checked on random histories.

It is one file on purpose: a history's steps, and each promise that is looked at after every one of them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from qonduit_scheduler.core import Core, Snapshot, Tick
from qonduit_scheduler.shapes import NOTHING, add, fits
from qonduit_service_kit import messages as m
from qonduit_service_kit.messages import Shape

if TYPE_CHECKING:
    from collections.abc import Callable

GIB = 1024**3
JOBS = [f"j{number}" for number in range(8)]
WORKERS = ["w0", "w1", "w2"]
SIZES = {"w0": (4, 4, 0), "w1": (8, 16, 2), "w2": (16, 8, 1)}
LIMIT = Shape(16_000, 4 * GIB, 2)
RUNNING_JOBS = {"bob": 2, "eve": 1}

steps = st.one_of(
    st.tuples(
        st.just("submit"),
        st.sampled_from(JOBS),
        st.sampled_from(["ada", "bob", "eve"]),
        st.sampled_from([0.5, 1, 3, 8, 12, 99]),
        st.sampled_from([0.5, 2, 6]),
        st.sampled_from([0, 0, 1, 2]),
    ),
    st.tuples(st.just("cancel"), st.sampled_from(JOBS)),
    st.tuples(st.just("finish"), st.sampled_from(JOBS)),
    st.tuples(
        st.just("want"),
        st.sampled_from(JOBS),
        st.integers(0, 12),
        st.sampled_from([0.5, 1, 4, 16]),
        st.sampled_from([0, 0, 1]),
        st.sampled_from([0.0, 0.2, 30.0]),
    ),
    st.tuples(st.just("nest"), st.sampled_from(JOBS), st.booleans()),
    st.tuples(st.just("wait"), st.sampled_from(JOBS), st.booleans()),
    st.tuples(st.just("idle"), st.sampled_from(JOBS)),
    st.tuples(st.just("end_executor"), st.sampled_from(JOBS)),
    st.tuples(st.just("start"), st.sampled_from(WORKERS)),
    st.tuples(st.just("kill"), st.sampled_from(WORKERS)),
    st.tuples(st.just("drain_worker"), st.sampled_from(WORKERS), st.booleans()),
    st.tuples(st.just("cut_off"), st.sampled_from(WORKERS)),
    st.tuples(st.just("reconnect"), st.sampled_from(WORKERS)),
    st.tuples(st.just("heartbeat"), st.sampled_from(WORKERS)),
    st.tuples(st.just("scheduler"), st.booleans()),
    st.tuples(st.just("worker"), st.sampled_from(WORKERS)),
    st.tuples(st.just("gateway")),
    st.tuples(st.just("takeover"), st.integers(0, 3)),
    st.tuples(st.just("crash")),
    st.tuples(st.just("time"), st.sampled_from([0.3, 3.0, 50.0, 130.0])),
    st.tuples(st.just("settle")),
)
# After about half of the steps everybody reads everything; after the others messages are left on their way.
histories = st.lists(st.tuples(steps, st.booleans()), min_size=5, max_size=60)
relaxed = settings(max_examples=150)


class Story:
    """Applies steps to a world; a step that makes no sense at that moment does nothing."""

    def __init__(self, world: Any, job: Any) -> None:
        self.world = world
        self.job = job
        for name, (cpu, mem, gpus) in SIZES.items():
            world.start_worker(name, cpu=cpu, mem=mem, gpus=gpus)
        world.pass_time(3.0)

    def apply(self, step: tuple[tuple[Any, ...], bool]) -> None:
        (name, *arguments), read_all = step
        getattr(self, name)(*arguments)
        if read_all:
            self.world.drain()

    def submit(self, job_id: str, user: str, cpu: float, mem: float, gpus: int) -> None:
        if job_id not in self.world.jobs:
            at = float(len(self.world.jobs))
            most = RUNNING_JOBS.get(user)
            self.world.submit(
                self.job(job_id, user=user, cpu=cpu, mem=mem, gpus=gpus, submitted_at=at, user_running_jobs=most)
            )

    def cancel(self, job_id: str) -> None:
        if job_id in self.world.jobs:
            self.world.cancel(job_id)

    def _driver(self, job_id: str) -> Any:
        return self.world.driver_of(job_id) if job_id in self.world.jobs else None

    def finish(self, job_id: str) -> None:
        driver = self._driver(job_id)
        if driver:
            self.world.end_lease(driver[0].worker_id, driver[1].lease_id)

    def want(self, job_id: str, unfinished: int, cpu: float, gpus: int, task_s: float) -> None:
        if self._driver(job_id):
            self.world.want(job_id, unfinished, cpu=cpu, mem=0.5, gpus=gpus, limit=LIMIT, task_name="t", task_s=task_s)

    def nest(self, job_id: str, waiting: bool) -> None:  # noqa: FBT001
        """Up to two executors of a job begin to wait inside their tasks, or go on."""
        found = [one for one in self.world.executors_of(job_id) if one[1].lends_cpu != waiting]
        for worker, status in found[:2]:
            if status.idle_since is None:
                self.world.set_lease_waiting(worker.worker_id, status.lease_id, waiting=waiting)

    def wait(self, job_id: str, waiting: bool) -> None:  # noqa: FBT001
        driver = self._driver(job_id)
        if driver and driver[1].lends_cpu != waiting:
            self.world.set_waiting(job_id, waiting=waiting)

    def idle(self, job_id: str) -> None:
        for worker, status in self.world.executors_of(job_id)[:2]:
            self.world.set_idle(worker.worker_id, status.lease_id)

    def end_executor(self, job_id: str) -> None:
        for worker, status in self.world.executors_of(job_id)[:1]:
            self.world.end_lease(worker.worker_id, status.lease_id)

    def start(self, name: str) -> None:
        if not self.world.workers[name].alive:
            cpu, mem, gpus = SIZES[name]
            self.world.start_worker(name, cpu=cpu, mem=mem, gpus=gpus)

    def kill(self, name: str) -> None:
        self.world.kill_worker(name)

    def drain_worker(self, name: str, draining: bool) -> None:  # noqa: FBT001
        self.world.workers[name].draining = draining
        self.world.heartbeat(name)

    def cut_off(self, name: str) -> None:
        self.world.cut_off(name)

    def reconnect(self, name: str) -> None:
        self.world.reconnect(name)

    def heartbeat(self, name: str) -> None:
        self.world.heartbeat(name)

    def scheduler(self, twice: bool) -> None:  # noqa: FBT001
        self.world.step_scheduler(twice=twice)

    def worker(self, name: str) -> None:
        self.world.step_worker(name)

    def gateway(self) -> None:
        self.world.step_gateway()

    def takeover(self, early: int) -> None:
        self.world.take_over(early)

    def crash(self) -> None:
        self.world.crash_in_handling()

    def time(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    def settle(self) -> None:
        self.world.drain()


def check_capacity(world: Any) -> None:
    """No worker truly runs more than it has in any dimension, but for the cpu that was lent and taken back."""
    for worker in world.workers.values():
        used = NOTHING
        for status in worker.leases.values():
            used = add(used, replace(status.shape, cpu_millis=0) if status.lease_id in world.lenders else status.shape)
        assert fits(used, worker.capacity), f"{worker.worker_id} runs {used} of {worker.capacity}"


def check_limits(world: Any) -> None:
    """No job's executors hold more than its limit in any dimension, but for the cpu that was lent and taken back."""
    for job_id, job in world.jobs.items():
        used = NOTHING
        for _, status in world.executors_of(job_id):
            if status.attempt == job.spec.attempt:
                used = add(
                    used, replace(status.shape, cpu_millis=0) if status.lease_id in world.lenders else status.shape
                )
        assert fits(used, LIMIT), f"the executors of {job_id} hold {used}"


def check_running_jobs(world: Any) -> None:
    """No user has more jobs running than they may."""
    for user, most in RUNNING_JOBS.items():
        running = [job_id for job_id, job in world.jobs.items() if job.spec.user == user and has_place(world, job_id)]
        assert len(running) <= most, f"{user} has {running} running"


def has_place(world: Any, job_id: str) -> bool:
    """Whether a job runs, as far as its leader can know.

    Of one that was canceled before the takeover no snapshot tells, but only its worker, once it is heard.
    """
    driver = world.driver_of(job_id)
    if driver is None:
        return False
    worker, lease = driver
    known = world.core.picture.fleet.workers.get(worker.worker_id)
    return world.jobs[job_id].state != "OVER" or (known is not None and lease.lease_id in known.leases)


def check_books(world: Any) -> None:
    """The core's sums agree with its leases."""
    picture = world.core.picture
    by_user: dict[str, Shape] = {}
    for worker in picture.fleet.workers.values():
        used = NOTHING
        for lease in worker.leases.values():
            used = add(used, lease.held)
            by_user[lease.user] = add(by_user.get(lease.user, NOTHING), lease.held)
        assert worker.used == used
    assert picture.fairness.used == {user: shape for user, shape in by_user.items() if shape != NOTHING}
    assert sorted(user for _, user in picture.fairness.order) == sorted(picture.line.lanes)
    for_room = [entry for entry in picture.line.entries.values() if not picture.line.is_held(entry)]
    assert picture.line.work_ms == sum(entry.work_ms for entry in for_room)
    lanes = {(entry.shape, entry.user) for entry in for_room}
    heads = sorted((entry.shape, entry.due_at, entry.user) for entry in picture.line.heads())
    assert heads == sorted((shape, *one) for shape, dues in picture.line.due.items() for one in dues)
    assert lanes == {(entry.shape, entry.user) for entry in picture.line.heads()}
    assert set(picture.hope) <= set(picture.line.due)
    assert picture.line.held == {user for user in RUNNING_JOBS if picture.running.full(user)}
    for attempt in picture.attempts.values():
        for shape, demand in attempt.demands.items():
            held = [
                one
                for one in attempt.executors.values()
                if one.shape == shape and one.revoked_at is None and not one.lends_cpu
            ]
            assert demand.held == len(held)
            assert demand.lending == sum(one.shape == shape and one.lends_cpu for one in attempt.executors.values())
            assert ((attempt.spec.job_id, shape) in picture.at_limit) <= (demand.entry is None)
            if demand.entry is not None:
                assert demand.entry.count == demand.message.unfinished - demand.lending - demand.held > 0
        used = NOTHING
        for lease in attempt.executors.values():
            used = add(used, lease.held)
        assert attempt.executors_use == used
        assert set(attempt.executors) <= {
            lease_id for worker in picture.fleet.workers.values() for lease_id in worker.leases
        }


def recover(world: Any) -> None:
    """Start what is dead, let everything be told, and let long times pass."""
    for name, (cpu, mem, gpus) in SIZES.items():
        world.workers[name].draining = False
        world.reconnect(name)
        if not world.workers[name].alive:
            world.start_worker(name, cpu=cpu, mem=mem, gpus=gpus)
    world.pass_time(130)


def check_nothing_waits_needlessly(world: Any) -> None:
    picture = world.core.picture
    for entry in picture.line.entries.values():
        if picture.line.is_held(entry):
            continue  # check_books has seen that its user is at the limit.
        for worker in picture.fleet.workers.values():
            if worker.worker_id not in picture.reservations:
                assert not fits(entry.shape, worker.free), f"{entry} fits {worker.worker_id}"
    for job_id, job in world.jobs.items():
        driver = world.driver_of(job_id)
        if job.state == "OVER":
            assert driver is None
        elif driver is None:
            assert picture.attempts[job_id].entry is not None, f"{job_id} is stuck"
        else:
            assert picture.attempts[job_id].driver is not None
    for worker in world.workers.values():
        assert set(worker.leases) == set(picture.fleet.workers[worker.worker_id].leases)


CANCELED_ON_A_WORKER_THAT_IS_CUT_OFF: list[Any] = [
    (("submit", "j0", "eve", 0.5, 0.5, 0), True),
    (("cancel", "j0"), False),
    (("cut_off", "w0"), False),
    (("takeover", 0), False),
    (("cancel", "j0"), False),
    (("submit", "j1", "eve", 0.5, 0.5, 0), True),
]


@pytest.mark.slow
@relaxed
@given(history=histories)
@example(history=CANCELED_ON_A_WORKER_THAT_IS_CUT_OFF)
def test_promises_hold_in_every_history(new_world: Callable[..., Any], job: Any, history: list[Any]) -> None:
    story = Story(new_world(), job)
    for step in history:
        story.apply(step)
        check_capacity(story.world)
        check_limits(story.world)
        check_running_jobs(story.world)
        check_books(story.world)
    recover(story.world)
    check_capacity(story.world)
    check_limits(story.world)
    check_books(story.world)
    check_nothing_waits_needlessly(story.world)


@relaxed
@given(history=histories)
def test_no_job_waits_for_ever(new_world: Callable[..., Any], job: Any, history: list[Any]) -> None:
    story = Story(new_world(), job)
    for step in history:
        story.apply(step)
    world = story.world
    recover(world)
    while left := [job_id for job_id, known in world.jobs.items() if known.state != "OVER"]:
        running = [job_id for job_id in left if world.driver_of(job_id) is not None]
        assert running, f"{left} wait, and nothing runs"
        for job_id in running:
            story.finish(job_id)
        world.pass_time(5)
        check_running_jobs(world)


@relaxed
@given(history=histories)
def test_a_new_leader_gets_the_same_picture(new_world: Callable[..., Any], job: Any, history: list[Any]) -> None:
    story = Story(new_world(), job)
    for step in history:
        story.apply(step)
    world = story.world
    recover(world)
    before = outline(world.core)
    world.take_over()
    world.drain()
    world.pass_time(5)
    assert outline(world.core) == before


@relaxed
@given(history=histories)
def test_a_restart_at_any_event_keeps_all_that_runs(
    new_world: Callable[..., Any], job: Any, history: list[Any]
) -> None:
    story = Story(new_world(), job)
    world = story.world
    for step in history:
        story.apply(step)
    world.drain()
    before = {(name, lease_id) for name, worker in world.workers.items() for lease_id in worker.leases}
    world.take_over()
    world.drain()
    world.pass_time(5)
    check_books(world)
    after = {(name, lease_id) for name, worker in world.workers.items() for lease_id in worker.leases}
    running = {job_id for job_id, known in world.jobs.items() if known.state != "OVER"}
    leases = world.core.picture.fleet.workers
    ended = {
        (name, lease_id)
        for name, lease_id in before - after
        if world.workers[name].cut_off_at is None and world.workers[name].alive
    }
    assert not ended, "what a live worker runs goes on"
    for name, lease_id in after:
        if world.workers[name].cut_off_at is None:
            assert lease_id in leases[name].leases
    assert {job_id for job_id in running if world.driver_of(job_id)} <= running


def outline(core: Core) -> tuple[object, ...]:
    picture = core.picture
    return (
        {name: (w.capacity, w.used, sorted(w.leases)) for name, w in sorted(picture.fleet.workers.items())},
        sorted((key[0], *key[2:], entry.count) for key, entry in picture.line.entries.items()),
        picture.fairness.used,
        sorted((job_id, attempt.spec.attempt, attempt.phase) for job_id, attempt in picture.attempts.items()),
    )


@relaxed
@given(history=histories)
def test_the_same_events_give_the_same_commands(new_world: Callable[..., Any], job: Any, history: list[Any]) -> None:
    first, second = Story(new_world(), job), Story(new_world(), job)
    for step in history:
        first.apply(step)
        second.apply(step)
    assert first.world.sent == second.world.sent


@relaxed
@given(history=histories)
def test_duplicates_change_nothing(new_world: Callable[..., Any], job: Any, history: list[Any]) -> None:
    story = Story(new_world(), job)
    for step in history:
        story.apply(step)
    world = story.world
    while world.inbox:
        event = world.inbox.popleft()
        world.handle(event)
        before = outline(world.core)
        again = [send for send in world.handle(event) if not isinstance(send.body, m.ClusterReport)]
        assert outline(world.core) == before
        assert not [send for send in again if isinstance(send.body, m.DriverGranted | m.ExecutorGranted)]


def test_snapshot_and_core_need_no_clock() -> None:
    from qonduit_scheduler.policy import PolicySettings  # noqa: PLC0415

    core = Core(PolicySettings(), Snapshot(1), 0.0)
    assert next(send.to for send in core.begin([], 0.0)) == m.ALL_WORKERS
    assert core.handle(Tick(), 0.5) == []
