"""The scheduler's own core in simulated time: the messages of a gateway and of workers, as the service gets them."""

from __future__ import annotations

import heapq
import time
from collections import deque
from typing import TYPE_CHECKING, Final

import numpy as np
from qonduit_scheduler.core import Core, Event, Snapshot, Tick
from qonduit_service_kit.messages import (
    DriverGranted,
    JobSpec,
    JobSubmitted,
    JobWithdrawn,
    LeaseEnded,
    LeaseKind,
    LeaseRevoked,
    LeaseStatus,
    PlacementRefused,
    Shape,
    WorkerHeartbeat,
)

from simulation.measures import Schedule

if TYPE_CHECKING:
    from qonduit_scheduler.policy import PolicySettings

    from simulation.workload import SimulatedTask, Workload

_TICK_S: Final = 1.0
_HEARTBEAT_S: Final = 20.0
"""Less often than in the service, where it is 5 s, for the simulation's own sake; it must be below lease_ttl_s."""


def job_of(task: SimulatedTask) -> JobSpec:
    """Return a simulated task as a job: its program runs for as long as the task and wants no executors."""
    return JobSpec(
        job_id=f"{task.task_id:06}",
        attempt=1,
        user=task.user,
        function_title=task.name,
        function_version="1",
        artifact_digest="",
        entrypoint="main.py",
        arguments_digest="",
        shape=task.shape,
        time_limit_s=0.0,
        submitted_at=task.arrives_at,
        storage_ticket="",
    )


class SimulatedCluster:
    """Workers around a core: they take every grant, and say so in heartbeats."""

    def __init__(self, capacities: tuple[Shape, ...], settings: PolicySettings) -> None:
        self.core = Core(settings, Snapshot(term=1), 0.0)
        self.leases: dict[str, tuple[str, LeaseStatus]] = {}
        """By lease id: its worker and its status."""
        self.granted: deque[tuple[str, str]] = deque()
        """(job id, lease id) in the order of the grants, for the simulation to take."""
        self._held: dict[str, dict[str, LeaseStatus]] = {}
        self._capacity = {f"worker-{number:04}": shape for number, shape in enumerate(capacities)}
        self._sequence = 0
        self.core.begin([], 0.0)
        self.heartbeats(0.0)
        self.handle(Tick(), settings.settle_s)

    def handle(self, event: Event, now: float) -> float:
        """Let the core handle one event; note its grants and return the seconds it took."""
        start = time.perf_counter()
        commands = self.core.handle(event, now)
        took_s = time.perf_counter() - start
        for command in commands:
            body = command.body
            if isinstance(body, DriverGranted):
                status = LeaseStatus(body.lease_id, LeaseKind.DRIVER, body.spec.job_id, 1, body.spec.shape)
                self.leases[body.lease_id] = (command.to.key, status)
                self._held.setdefault(command.to.key, {})[body.lease_id] = status
                self.granted.append((body.spec.job_id, body.lease_id))
            elif isinstance(body, PlacementRefused | LeaseRevoked):
                raise RuntimeError(f"the simulation has no place for {body}")  # noqa: TRY004 - The type is right.
        return took_s

    def end(self, lease_id: str, now: float) -> float:
        """A job's program has ended: its worker says so, then the gateway. Returns the first decision's seconds."""
        worker_id, status = self.leases.pop(lease_id)
        del self._held[worker_id][lease_id]
        took_s = self.handle(LeaseEnded(worker_id, lease_id), now)
        self.handle(JobWithdrawn(status.job_id, 1), now)
        return took_s

    def heartbeats(self, now: float) -> None:
        """Let every worker tell what it holds."""
        self._sequence += 1
        for worker_id, capacity in self._capacity.items():
            leases = tuple(self._held.get(worker_id, {}).values())
            self.handle(WorkerHeartbeat(worker_id, "1", self._sequence, capacity, leases, term=1), now)


def run(workload: Workload, settings: PolicySettings) -> Schedule:
    """Play a workload through the core."""
    cluster = SimulatedCluster(workload.workers, settings)
    tasks = workload.tasks
    schedule = Schedule(np.full(len(tasks), np.nan))
    ends: list[tuple[float, str]] = []
    offset = settings.settle_s
    arriving, tick_at, heartbeat_at = 0, offset, offset
    while arriving < len(tasks) or ends:
        next_arrival = tasks[arriving].arrives_at + offset if arriving < len(tasks) else np.inf
        next_end = ends[0][0] if ends else np.inf
        now = min(next_arrival, next_end, tick_at, heartbeat_at)
        queue_length = len(cluster.core.picture.line)
        if now == next_end:
            schedule.decisions.append((queue_length, cluster.end(heapq.heappop(ends)[1], now)))
        elif now == next_arrival:
            spec = job_of(tasks[arriving])
            schedule.decisions.append((queue_length, cluster.handle(JobSubmitted(spec), now)))
            arriving += 1
        elif now == heartbeat_at:
            cluster.heartbeats(now)
            heartbeat_at += _HEARTBEAT_S
        else:
            cluster.handle(Tick(), now)
            tick_at += _TICK_S
        while cluster.granted:
            job_id, lease_id = cluster.granted.popleft()
            task = tasks[int(job_id)]
            schedule.starts[task.task_id] = now - offset
            heapq.heappush(ends, (now + task.run_s, lease_id))
    return schedule
