"""How long one decision takes in a large cluster, against how much waits."""

from __future__ import annotations

import gc
import resource
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from qonduit_scheduler.core import Tick
from qonduit_scheduler.shapes import fits
from qonduit_service_kit.messages import JobSubmitted

from simulation.real_core import SimulatedCluster, job_of
from simulation.workload import SimulatedTask, machine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qonduit_scheduler.policy import PolicySettings
    from qonduit_service_kit.messages import Shape

WORKERS: Final = 5_000
QUEUES: Final = (100, 1_000, 10_000, 25_000, 50_000, 100_000)
USERS: Final = 100
_MEASURED: Final = 400
_WORKER: Final = machine(32, 128, 4)


@dataclass(frozen=True, slots=True)
class Scale:
    """Decision times with a queue of some length, in seconds."""

    waiting: int
    submit_s: tuple[float, ...]
    """A job comes that has to wait."""
    end_s: tuple[float, ...]
    """A job ends, and whatever fits takes its place."""
    tick_s: tuple[float, ...]
    """Time passes: once a second reservations are chosen anew and the report is written."""
    peak_mem_bytes: int
    """Of the whole process, the simulated workers included."""


def measure_scale(shapes: Sequence[Shape], settings: PolicySettings, queues: tuple[int, ...] = QUEUES) -> list[Scale]:
    """Fill 5,000 workers, let ever more jobs wait, and time single events at each length of the queue."""
    random = np.random.default_rng(5)
    cluster = SimulatedCluster((_WORKER,) * WORKERS, settings)
    possible = [shape for shape in shapes if fits(shape, _WORKER)]
    running: list[str] = []
    number, now = 0, settings.settle_s
    found: list[Scale] = []

    def submit() -> float:
        nonlocal number
        shape = possible[int(random.integers(len(possible)))]
        user, name = f"user-{random.integers(USERS)}", f"name-{random.integers(8)}"
        took_s = cluster.handle(JobSubmitted(job_of(SimulatedTask(number, user, name, shape, now, 0.0, 0.0))), now)
        number += 1
        running.extend(lease_id for _, lease_id in cluster.granted)
        cluster.granted.clear()
        return took_s

    def end() -> float:
        took_s = cluster.end(running.pop(int(random.integers(len(running)))), now)
        running.extend(lease_id for _, lease_id in cluster.granted)
        cluster.granted.clear()
        return took_s

    gc.freeze()
    for length in queues:
        while len(cluster.core.picture.line) < length:
            submit()
        now += 1.0
        cluster.heartbeats(now)
        submits, ends, ticks = [], [], []
        for step in range(_MEASURED):
            now += 0.05
            ends.append(end())
            submits.append(submit())
            if step % 20 == 0:
                start = time.perf_counter()
                cluster.handle(Tick(), now)
                ticks.append(time.perf_counter() - start)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        found.append(Scale(length, tuple(submits), tuple(ends), tuple(ticks), peak))
    return found
