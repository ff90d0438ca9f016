"""How long one decision takes in a large cluster, against how much waits."""

from __future__ import annotations

import resource
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from qonduit_scheduler.core import Tick
from qonduit_scheduler.shapes import fits
from qonduit_service_kit.messages import JobSubmitted

from simulation.real_core import SimulatedCluster, job_of
from simulation.workload import NAMES_A_USER, SimulatedTask, machine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qonduit_scheduler.policy import PolicySettings
    from qonduit_service_kit.messages import Shape

WORKERS: Final = 5_000
QUEUES: Final = (100, 1_000, 10_000, 25_000, 50_000, 100_000)
USERS: Final = 100
_MEASURED: Final = 400
_STEP_S: Final = 0.05
_STEPS_A_TICK: Final = 5
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


class _Load:
    """A cluster whose every worker is full, and jobs of random shapes that come and end."""

    def __init__(self, shapes: Sequence[Shape], settings: PolicySettings, workers: int) -> None:
        self.cluster = SimulatedCluster((_WORKER,) * workers, settings)
        self.now = settings.settle_s
        self._shapes = [shape for shape in shapes if fits(shape, _WORKER)]
        self._random = np.random.default_rng(5)
        self._running: list[str] = []
        self._count = 0

    @property
    def waiting(self) -> int:
        """How many jobs wait."""
        return len(self.cluster.core.picture.line)

    def submit(self) -> float:
        """Let a job come; return the seconds that the decision took."""
        shape = self._shapes[int(self._random.integers(len(self._shapes)))]
        user, name = f"user-{self._random.integers(USERS)}", f"name-{self._random.integers(NAMES_A_USER)}"
        spec = job_of(SimulatedTask(self._count, user, name, shape, self.now, 0.0, 0.0))
        self._count += 1
        return self._note_grants(self.cluster.handle(JobSubmitted(spec), self.now))

    def end(self) -> float:
        """Let a random job end; return the seconds that the decision took."""
        lease_id = self._running.pop(int(self._random.integers(len(self._running))))
        return self._note_grants(self.cluster.end(lease_id, self.now))

    def tick(self) -> float:
        """Let the core look at what is due; return the seconds that it took."""
        return self._note_grants(self.cluster.handle(Tick(), self.now))

    def _note_grants(self, took_s: float) -> float:
        self._running.extend(lease_id for _, lease_id in self.cluster.granted)
        self.cluster.granted.clear()
        return took_s


def measure_scale(
    shapes: Sequence[Shape], settings: PolicySettings, queues: tuple[int, ...] = QUEUES, workers: int = WORKERS
) -> list[Scale]:
    """Fill the workers, let ever more jobs wait, and time single events at each length of the queue."""
    load = _Load(shapes, settings, workers)
    found: list[Scale] = []
    for length in queues:
        while load.waiting < length:
            load.submit()
        load.now += 1.0
        load.cluster.heartbeats(load.now)
        submits, ends, ticks = [], [], []
        for step in range(_MEASURED):
            load.now += _STEP_S
            ends.append(load.end())
            submits.append(load.submit())
            if step % _STEPS_A_TICK == 0:
                ticks.append(load.tick())
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        found.append(Scale(length, tuple(submits), tuple(ends), tuple(ticks), peak))
    return found
