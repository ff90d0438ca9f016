"""A small world around the core: a gateway, workers and the queues between them, all in memory.

It keeps the promises that the real ones make (docs/architecture/scheduler.md) and lets a test choose
the order of everything, duplicates and crashes included.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest
from qonduit_scheduler.core import Core, Snapshot, Tick
from qonduit_scheduler.policy import PolicySettings
from qonduit_service_kit import messages as m
from qonduit_service_kit.messages import LeaseKind, Shape

if TYPE_CHECKING:
    from collections.abc import Callable

    from qonduit_scheduler.picture import Send

GIB = 1024**3


def spec(
    job_id: str, *, user: str = "ada", cpu: float = 1, mem: float = 1, gpus: int = 0, **other: object
) -> m.JobSpec:
    shape = Shape(int(cpu * 1000), int(mem * GIB), gpus)
    known = {
        "job_id": job_id,
        "attempt": 1,
        "user": user,
        "function_title": "f",
        "function_version": "v",
        "artifact_digest": "a",
        "entrypoint": "main.py",
        "arguments_digest": "b",
        "shape": shape,
        "time_limit_s": 60.0,
        "submitted_at": 0.0,
        "storage_ticket": "t",
    }
    return m.JobSpec(**(known | other))  # type: ignore[arg-type]


@dataclass
class Job:
    spec: m.JobSpec
    state: str = "QUEUED"
    worker_id: str = ""
    refusal: str = ""


@dataclass
class FakeWorker:
    worker_id: str
    capacity: Shape
    incarnation: str
    sequence: int = 0
    term: int = 0
    draining: bool = False
    alive: bool = True
    cut_off_at: float | None = None
    leases: dict[str, m.LeaseStatus] = field(default_factory=dict)
    ending: set[str] = field(default_factory=set)
    demands: dict[tuple[str, int, Shape], m.TaskDemand] = field(default_factory=dict)
    inbox: deque[object] = field(default_factory=deque)


class World:
    def __init__(self, **settings: float) -> None:
        self.settings = PolicySettings(**settings)
        self.now = 1000.0
        self.term = 0
        self.lives = 0
        self.jobs: dict[str, Job] = {}
        self.workers: dict[str, FakeWorker] = {}
        self.inbox: deque[object] = deque()
        self.gateway_inbox: deque[object] = deque()
        self.sent: list[Send] = []
        self.sequence = 0
        self.lenders: set[str] = set()
        """Leases that have ever lent their cpu: once they take it back their worker may be overdrawn."""
        self.take_over()

    # --- The scheduler ---

    def take_over(self, early: int = 0) -> None:
        """Start a scheduler anew, with the gateway's snapshot and the first messages of the inbox."""
        self.term += 1
        snapshot = Snapshot(
            self.term,
            tuple(job.spec for job in self.jobs.values() if job.state == "QUEUED"),
            tuple(m.RunningAttempt(job.spec, job.worker_id) for job in self.jobs.values() if job.state == "RUNNING"),
        )
        events = [self.inbox.popleft() for _ in range(min(early, len(self.inbox)))]
        self.core = Core(self.settings, snapshot, self.now)
        self._deliver(self.core.begin(events, self.now))  # type: ignore[arg-type]

    def handle(self, event: object) -> list[Send]:
        commands = self.core.handle(event, self.now)  # type: ignore[arg-type]
        self._deliver(commands)
        return commands

    def crash_in_handling(self) -> None:
        """The scheduler dies between handling a message and publishing what follows."""
        if self.inbox:
            self.core.handle(self.inbox[0], self.now)  # type: ignore[arg-type]
        self.take_over(early=1)

    def _deliver(self, commands: list[Send]) -> None:
        self.sent.extend(commands)
        for command in commands:
            if command.to == m.GATEWAY:
                self.gateway_inbox.append(command.body)
            for worker in self.workers.values():
                if command.to in {m.ALL_WORKERS, m.worker(worker.worker_id)}:
                    worker.inbox.append(command.body)

    def step_scheduler(self, *, twice: bool = False) -> None:
        if self.inbox:
            event = self.inbox.popleft()
            self.handle(event)
            if twice:
                self.handle(event)

    def tick(self, seconds: float = 0.0) -> list[Send]:
        self.now += seconds
        for worker in self.workers.values():
            if worker.cut_off_at is not None and self.now - worker.cut_off_at >= self.settings.lease_ttl_s:
                # It fences itself off: nothing that it ran may go on where nobody sees it.
                worker.leases.clear()
                worker.demands.clear()
                worker.incarnation = f"{worker.incarnation}+"
                worker.cut_off_at = self.now
        return self.handle(Tick())

    # --- The gateway ---

    def submit(self, job: m.JobSpec) -> None:
        self.jobs[job.job_id] = Job(job)
        self.inbox.append(m.JobSubmitted(job))

    def cancel(self, job_id: str) -> None:
        job = self.jobs[job_id]
        if job.state != "OVER":
            job.state = "OVER"
            self.inbox.append(m.JobWithdrawn(job_id, job.spec.attempt))

    def step_gateway(self) -> None:
        if not self.gateway_inbox:
            return
        message = self.gateway_inbox.popleft()
        if isinstance(message, m.ClusterReport):
            return
        job = self.jobs[message.job_id]  # type: ignore[attr-defined]
        if job.state == "OVER" or job.spec.attempt != message.attempt:  # type: ignore[attr-defined]
            return
        if isinstance(message, m.AttemptLost):
            job.spec = replace(job.spec, attempt=message.attempt + 1)
            job.state = "QUEUED"
            self.inbox.append(m.JobSubmitted(job.spec))
        elif isinstance(message, m.PlacementRefused):
            job.state, job.refusal = "OVER", message.text
            self.inbox.append(m.JobWithdrawn(message.job_id, message.attempt))
        elif isinstance(message, m.JobEvent):
            job.worker_id = message.worker_id
            job.state = "OVER" if message.kind is m.EventKind.FINISHED else "RUNNING"
            if job.state == "OVER":
                self.inbox.append(m.JobWithdrawn(message.job_id, message.attempt))

    # --- Workers ---

    def start_worker(self, worker_id: str, *, cpu: float = 16, mem: float = 16, gpus: int = 0) -> FakeWorker:
        self.lives += 1
        former = self.workers.get(worker_id)
        worker = FakeWorker(worker_id, Shape(int(cpu * 1000), int(mem * GIB), gpus), f"life{self.lives}")
        if former is not None:
            worker.inbox = former.inbox
        self.workers[worker_id] = worker
        self.heartbeat(worker_id)
        return worker

    def kill_worker(self, worker_id: str) -> None:
        worker = self.workers[worker_id]
        worker.alive = False
        worker.leases.clear()

    def heartbeat(self, worker_id: str) -> None:
        worker = self.workers[worker_id]
        if not worker.alive or worker.cut_off_at is not None:
            return
        worker.sequence += 1
        body = m.WorkerHeartbeat(
            worker_id,
            worker.incarnation,
            worker.sequence,
            worker.capacity,
            tuple(worker.leases.values()),
            draining=worker.draining,
            term=worker.term,
        )
        self.inbox.append(body)

    def step_worker(self, worker_id: str) -> None:
        worker = self.workers[worker_id]
        if not worker.alive or worker.cut_off_at is not None or not worker.inbox:
            return
        message = worker.inbox.popleft()
        if isinstance(message, m.SchedulerElected):
            worker.term = max(worker.term, message.term)
            self.heartbeat(worker_id)
            self.inbox.extend(worker.demands.values())
        elif isinstance(message, m.DriverGranted | m.ExecutorGranted):
            self._take(worker, message)
        elif isinstance(message, m.DemandRefused):
            # The driver's agent ends these tasks.
            worker.demands.pop((message.job_id, message.attempt, message.shape), None)
        elif isinstance(message, m.LeaseRevoked) and message.lease_id in worker.leases:
            worker.ending.add(message.lease_id)
            if message.now or worker.leases[message.lease_id].idle_since is not None:
                self.end_lease(worker_id, message.lease_id)

    def _take(self, worker: FakeWorker, grant: m.DriverGranted | m.ExecutorGranted) -> None:
        if grant.term < worker.term or grant.incarnation != worker.incarnation:
            self.inbox.append(m.LeaseEnded(worker.worker_id, grant.lease_id, "refused", refused=True))
            return
        worker.term = grant.term
        if isinstance(grant, m.DriverGranted):
            job = grant.spec
            status = m.LeaseStatus(grant.lease_id, LeaseKind.DRIVER, job.job_id, job.attempt, job.shape, user=job.user)
            self._tell_gateway(worker, status, m.EventKind.INITIALIZING)
        else:
            status = m.LeaseStatus(
                grant.lease_id, LeaseKind.EXECUTOR, grant.job_id, grant.attempt, grant.shape, user=grant.user
            )
        worker.leases[grant.lease_id] = status
        self.heartbeat(worker.worker_id)

    def _tell_gateway(self, worker: FakeWorker, status: m.LeaseStatus, kind: m.EventKind) -> None:
        self.sequence += 1
        self.gateway_inbox.append(
            m.JobEvent(status.job_id, status.attempt, self.sequence, self.now, worker.worker_id, kind)
        )

    def end_lease(self, worker_id: str, lease_id: str) -> None:
        worker = self.workers[worker_id]
        status = worker.leases.pop(lease_id)
        worker.ending.discard(lease_id)
        if status.kind is LeaseKind.DRIVER:
            self._tell_gateway(worker, status, m.EventKind.FINISHED)
            for key in [key for key in worker.demands if key[:2] == (status.job_id, status.attempt)]:
                del worker.demands[key]
        self.inbox.append(m.LeaseEnded(worker_id, lease_id))

    def driver_of(self, job_id: str) -> tuple[FakeWorker, m.LeaseStatus] | None:
        found = [
            (worker, status)
            for worker in self.workers.values()
            for status in worker.leases.values()
            if status.kind is LeaseKind.DRIVER
            and (status.job_id, status.attempt) == (job_id, self.jobs[job_id].spec.attempt)
        ]
        assert len(found) <= 1, f"attempt of {job_id} runs twice: {found}"
        return found[0] if found else None

    def executors_of(self, job_id: str) -> list[tuple[FakeWorker, m.LeaseStatus]]:
        return [
            (worker, status)
            for worker in self.workers.values()
            for status in worker.leases.values()
            if status.kind is LeaseKind.EXECUTOR and status.job_id == job_id
        ]

    def want(
        self, job_id: str, unfinished: int, *, cpu: float = 1, mem: float = 1, gpus: int = 0, **other: object
    ) -> None:
        driver = self.driver_of(job_id)
        assert driver is not None
        worker, status = driver
        self.sequence += 1
        shape = Shape(int(cpu * 1000), int(mem * GIB), gpus)
        body = m.TaskDemand(
            status.job_id,
            status.attempt,
            worker.worker_id,
            status.user,
            shape,
            unfinished,
            self.sequence,
            **other,  # type: ignore[arg-type]
        )
        worker.demands[status.job_id, status.attempt, shape] = body
        self.inbox.append(body)

    def set_waiting(self, job_id: str, *, waiting: bool) -> None:
        driver = self.driver_of(job_id)
        assert driver is not None
        worker, status = driver
        self.set_lease_waiting(worker.worker_id, status.lease_id, waiting=waiting)

    def set_lease_waiting(self, worker_id: str, lease_id: str, *, waiting: bool) -> None:
        leases = self.workers[worker_id].leases
        leases[lease_id] = replace(leases[lease_id], lends_cpu=waiting)
        self.lenders.add(lease_id)
        self.sequence += 1
        self.inbox.append(m.DriverWaiting(worker_id, lease_id, waiting, self.sequence))

    def set_idle(self, worker_id: str, lease_id: str, *, idle: bool = True) -> None:
        worker = self.workers[worker_id]
        worker.leases[lease_id] = replace(worker.leases[lease_id], idle_since=self.now if idle else None)
        if idle and lease_id in worker.ending:
            self.end_lease(worker_id, lease_id)
        self.heartbeat(worker_id)

    def cut_off(self, worker_id: str) -> None:
        """The worker's network is gone."""
        worker = self.workers[worker_id]
        worker.cut_off_at = self.now if worker.cut_off_at is None else worker.cut_off_at

    def reconnect(self, worker_id: str) -> None:
        self.workers[worker_id].cut_off_at = None
        self.heartbeat(worker_id)

    # --- All together ---

    def drain(self) -> None:
        """Let everybody read everything."""
        while (
            self.inbox
            or self.gateway_inbox
            or any(w.inbox for w in self.workers.values() if w.alive and w.cut_off_at is None)
        ):
            self.step_scheduler()
            self.step_gateway()
            for worker_id in list(self.workers):
                self.step_worker(worker_id)

    def pass_time(self, seconds: float) -> None:
        """Let time pass in steps in which all live workers send heartbeats."""
        while seconds > 0:
            self.drain()
            self.tick(min(seconds, 5.0))
            seconds -= 5.0
            for worker_id in list(self.workers):
                self.heartbeat(worker_id)
            self.drain()

    def bodies(self, kind: type) -> list[object]:
        return [command.body for command in self.sent if isinstance(command.body, kind)]


@pytest.fixture(scope="session")
def new_world() -> Callable[..., World]:
    return World


@pytest.fixture
def world() -> World:
    """A settled scheduler and one worker of 16 cpu and 16 GiB."""
    settled = World()
    settled.start_worker("w1")
    settled.drain()
    settled.tick(settled.settings.settle_s)
    settled.drain()
    return settled


@pytest.fixture(scope="session")
def job() -> Callable[..., m.JobSpec]:
    return spec
