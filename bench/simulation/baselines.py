"""Known policies to compare with, each in its textbook form. All may see the users' own estimates of run times."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from simulation.measures import Schedule

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulation.workload import Workload

_NO_WORKER = -1


@dataclass(slots=True)
class Cluster:
    """Tasks and workers as arrays of (cpu, memory, gpus), each a fraction of the largest worker's."""

    needs: np.ndarray
    told_s: np.ndarray
    capacity: np.ndarray
    free: np.ndarray
    weights: np.ndarray
    """What a resource of the largest worker is of the cluster's, so that scarce ones count for more."""
    queue: list[int] = field(default_factory=list)
    """By arrival."""
    running: dict[int, tuple[int, float]] = field(default_factory=dict)
    """Task to (worker, when it should end)."""

    def fits(self, task: int) -> np.ndarray:
        """Return whether each worker has room for a task."""
        return np.asarray((self.free >= self.needs[task] - 1e-9).all(axis=1))

    def best_fit(self, task: int) -> int:
        """Return the worker with room that would have least left, or -1."""
        return self._choose(task, sign=1.0)

    def spread(self, task: int) -> int:
        """Return the worker with room that has most free, or -1."""
        return self._choose(task, sign=-1.0)

    def _choose(self, task: int, sign: float) -> int:
        room = self.fits(task)
        if not room.any():
            return _NO_WORKER
        left = sign * (self.free * self.weights).sum(axis=1)
        return int(np.where(room, left, np.inf).argmin())

    def start(self, task: int, worker: int, now: float) -> None:
        """Place a waiting task."""
        self.queue.remove(task)
        self.free[worker] -= self.needs[task]
        self.running[task] = (worker, now + self.told_s[task])


def run(workload: Workload, decide: Callable[[Cluster, float], list[int]]) -> Schedule:
    """Play a workload through a policy: `decide` starts what it wants at each arrival and end, and returns it."""
    cluster = _cluster(workload)
    starts = np.full(len(workload.tasks), np.nan)
    ends: list[tuple[float, int]] = []
    arriving = 0
    while arriving < len(workload.tasks) or ends:
        next_arrival = workload.tasks[arriving].arrives_at if arriving < len(workload.tasks) else np.inf
        if ends and ends[0][0] <= next_arrival:
            now, task = heapq.heappop(ends)
            worker, _ = cluster.running.pop(task)
            cluster.free[worker] += cluster.needs[task]
        else:
            now = next_arrival
            cluster.queue.append(arriving)
            arriving += 1
        for task in decide(cluster, now):
            starts[task] = now
            heapq.heappush(ends, (now + workload.tasks[task].run_s, task))
    return Schedule(starts)


def _cluster(workload: Workload) -> Cluster:
    capacity = np.array([[w.cpu_millis, w.mem_bytes, w.gpus] for w in workload.workers], dtype=float)
    largest = np.maximum(capacity.max(axis=0), 1.0)
    needs = np.array([[t.shape.cpu_millis, t.shape.mem_bytes, t.shape.gpus] for t in workload.tasks], dtype=float)
    return Cluster(
        needs=needs / largest,
        told_s=np.array([task.told_s for task in workload.tasks]),
        capacity=capacity / largest,
        free=capacity / largest,
        weights=largest / np.maximum(capacity.sum(axis=0), 1.0),
    )


def fifo_spread(cluster: Cluster, now: float) -> list[int]:
    """First come, first served, each on the emptiest worker (the default of many orchestrators)."""
    return _in_order(cluster, now, cluster.spread)


def fifo_best_fit(cluster: Cluster, now: float) -> list[int]:
    """First come, first served, each on the fullest worker with room."""
    return _in_order(cluster, now, cluster.best_fit)


def _in_order(cluster: Cluster, now: float, choose: Callable[[int], int]) -> list[int]:
    started = []
    while cluster.queue and (worker := choose(cluster.queue[0])) != _NO_WORKER:
        started.append(cluster.queue[0])
        cluster.start(cluster.queue[0], worker, now)
    return started


def greedy_best_fit(cluster: Cluster, now: float) -> list[int]:
    """Whatever fits, in the order of arrival; nothing is kept for what doesn't."""
    started = []
    for task in _fitting(cluster):
        worker = cluster.best_fit(task)
        if worker != _NO_WORKER:
            started.append(task)
            cluster.start(task, worker, now)
    return started


def _fitting(cluster: Cluster) -> list[int]:
    """Return the waiting tasks that fit some worker now, by arrival."""
    if not cluster.queue:
        return []
    queue = np.array(cluster.queue)
    room = (cluster.free[None, :, :] >= cluster.needs[queue][:, None, :] - 1e-9).all(axis=2).any(axis=1)
    return [int(task) for task in queue[room]]


def easy_backfill(cluster: Cluster, now: float) -> list[int]:
    """EASY backfill (Lifka, 1995) with best fit: the head gets the worker that is free for it first by the estimates.

    Others may pass it if they go elsewhere, end before it begins, or fit beside it.
    """
    started = _in_order(cluster, now, cluster.best_fit)
    if not cluster.queue:
        return started
    head = cluster.queue[0]
    kept, begins, beside = _shadow(cluster, head, now)
    for task in _fitting(cluster):
        if task == head:
            continue
        room = cluster.fits(task)
        ends_before = now + cluster.told_s[task] <= begins
        if not ends_before and not (beside >= cluster.needs[task] - 1e-9).all():
            room[kept] = False
        if not room.any():
            continue
        left = (cluster.free * cluster.weights).sum(axis=1)
        worker = int(np.where(room, left, np.inf).argmin())
        if worker == kept and not ends_before:
            beside = beside - cluster.needs[task]
        started.append(task)
        cluster.start(task, worker, now)
    return started


def _shadow(cluster: Cluster, head: int, now: float) -> tuple[int, float, np.ndarray]:
    """Return the worker that can hold the head first, when, and what is free beside it then."""
    best = (np.inf, _NO_WORKER, np.zeros(3))
    for worker in range(len(cluster.capacity)):
        room = cluster.free[worker].copy()
        ends = sorted((max(end, now), task) for task, (where, end) in cluster.running.items() if where == worker)
        for end, task in ends:
            room += cluster.needs[task]
            if (room >= cluster.needs[head] - 1e-9).all():
                if end < best[0]:
                    best = (end, worker, room - cluster.needs[head])
                break
    return best[1], best[0], best[2]


def tetris_like(cluster: Cluster, now: float) -> list[int]:
    """Tetris (Grandl et al., SIGCOMM 2014): of all (task, worker) that fit, the largest alignment less work left.

    Alignment is the dot product of need and room, work is need x estimated time; the two are brought to one scale
    by the ratio of their means, as in the paper.
    """
    started = []
    while cluster.queue:
        queue = np.array(cluster.queue)
        needs = cluster.needs[queue]
        room = (cluster.free[None, :, :] >= needs[:, None, :] - 1e-9).all(axis=2)
        if not room.any():
            break
        aligned = needs @ cluster.free.T
        work = needs.sum(axis=1) * cluster.told_s[queue]
        score = aligned - (aligned.mean() / work.mean() * work)[:, None]
        where, worker = np.unravel_index(np.where(room, score, -np.inf).argmax(), score.shape)
        started.append(int(queue[where]))
        cluster.start(int(queue[where]), int(worker), now)
    return started


BASELINES = {
    "FIFO, spread": fifo_spread,
    "FIFO, best fit": fifo_best_fit,
    "greedy best fit": greedy_best_fit,
    "EASY backfill, best fit": easy_backfill,
    "Tetris-like": tetris_like,
}
