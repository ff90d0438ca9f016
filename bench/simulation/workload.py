"""What is simulated: machines and tasks, of the recorded trace or made up, with run times and arrivals from a seed.

Recorded are the machines' and the tasks' shapes (Alibaba, "GPU cluster trace v2023"; Weng et al., "Beware of
Fragmentation", USENIX ATC 2023). Its lifetimes are those of services, so that run times, arrivals, users and names are
drawn here: the run times log-normal (median 60 s, sigma 1.4), the arrivals uniformly random in time.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from qonduit_scheduler.shapes import fits
from qonduit_service_kit.messages import Shape

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MEDIAN_S: Final = 60.0
SIGMA: Final = 1.4
USERS: Final = 20
NAMES_A_USER: Final = 8
_MIB: Final = 1024**2
_GIB: Final = 1024**3


@dataclass(frozen=True, slots=True)
class SimulatedTask:
    """One unit of work: it occupies its shape for `run_s` seconds once it is placed."""

    task_id: int
    user: str
    name: str
    shape: Shape
    arrives_at: float
    run_s: float
    told_s: float
    """What a user would have estimated, 1 to 4 times too long; only baselines look at it."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Tasks by arrival, and the capacity of each worker."""

    source: str
    tasks: tuple[SimulatedTask, ...]
    workers: tuple[Shape, ...]

    @property
    def total(self) -> Shape:
        """Capacity of all workers together."""
        return Shape(
            sum(worker.cpu_millis for worker in self.workers),
            sum(worker.mem_bytes for worker in self.workers),
            sum(worker.gpus for worker in self.workers),
        )

    def bound_s(self) -> float:
        """Return a lower bound of any schedule's length: the largest of work / capacity over the resources."""
        return lower_bound_s([task.shape for task in self.tasks], [task.run_s for task in self.tasks], self.total)


def lower_bound_s(shapes: Sequence[Shape], run_s: Sequence[float], total: Shape) -> float:
    """Return the largest of work / capacity over cpu, memory and gpus."""
    pairs = list(zip(shapes, run_s, strict=True))
    return max(
        sum(shape.cpu_millis * seconds for shape, seconds in pairs) / total.cpu_millis,
        sum(shape.mem_bytes * seconds for shape, seconds in pairs) / total.mem_bytes,
        sum(shape.gpus * seconds for shape, seconds in pairs) / total.gpus if total.gpus else 0.0,
    )


def recorded_shapes(folder: Path) -> list[Shape]:
    """Return the shape of each task of the trace; a part of a gpu counts as one, as Qonduit grants whole ones."""
    with (folder / "openb_pod.csv").open(newline="") as lines:
        return [
            Shape(int(row["cpu_milli"]), int(row["memory_mib"]) * _MIB, int(row["num_gpu"]))
            for row in csv.DictReader(lines)
        ]


def made_up_shapes(count: int, random: np.random.Generator) -> list[Shape]:
    """Return shapes of a circuit-like mix: mostly one or two cores, some of half a machine, few with gpus."""
    cpus = random.choice([500, 1000, 2000, 4000, 8000, 16000, 28000], count, p=[0.1, 0.35, 0.2, 0.15, 0.1, 0.07, 0.03])
    mem = np.exp(random.normal(np.log(2.0), 0.5, count))
    gpus = random.choice([0, 1, 2], count, p=[0.9, 0.08, 0.02])
    return [
        Shape(int(cpu), int(min(cpu / 1000 * gib, 120.0) * 1024) * _MIB, int(gpu))
        for cpu, gib, gpu in zip(cpus, mem, gpus, strict=True)
    ]


def machine(cpu: int, gib: int, gpus: int) -> Shape:
    """Return a capacity in whole cores, GiB and gpus."""
    return Shape(cpu * 1000, gib * _GIB, gpus)


def draw(
    source: str,
    shapes: Sequence[Shape],
    workers: Sequence[Shape],
    *,
    count: int,
    load: float,
    seed: int,
    likeness: float = 0.9,
) -> Workload:
    """Draw tasks whose work arrives at `load` times the capacity of the resource that is shortest.

    Only shapes that an empty worker could hold are drawn. `likeness` is the correlation of the logarithms of the
    run times of one user's tasks of one name: 1 makes them all alike, 0 makes names tell nothing. Whatever it is, the
    run times are independent draws of one log-normal distribution, in the order of arrival.
    """
    random = np.random.default_rng(seed)
    possible = [shape for shape in shapes if any(fits(shape, worker) for worker in workers)]
    chosen = [possible[index] for index in random.integers(0, len(possible), count)]
    standard = random.normal(0.0, 1.0, count)
    run_s = np.exp(np.log(MEDIAN_S) + SIGMA * standard)
    told_s = run_s * random.uniform(1.0, 4.0, count)
    owners = _owners(standard, likeness, random)
    total = Workload(source, (), tuple(workers)).total
    span_s = lower_bound_s(chosen, run_s.tolist(), total) / load
    arrivals = np.sort(random.uniform(0.0, span_s, count))
    tasks = tuple(
        SimulatedTask(index, *owners[index], chosen[index], float(arrivals[index]), float(run_s[index]), float(told))
        for index, told in enumerate(told_s)
    )
    return Workload(source, tasks, tuple(workers))


def _owners(standard: np.ndarray, likeness: float, random: np.random.Generator) -> list[tuple[str, str]]:
    """Give each task a user and a name: a name takes the tasks within a slice of the blurred run times.

    Users and their names have Zipf's popularity; which slice is whose is drawn.
    """
    count = len(standard)
    blurred = likeness * standard + np.sqrt(1 - likeness**2) * random.normal(0.0, 1.0, count)
    names = [(f"user-{user:02}", f"name-{name}") for user in range(USERS) for name in range(NAMES_A_USER)]
    weights = np.array([1 / (user + 1) / (name + 1) for user in range(USERS) for name in range(NAMES_A_USER)])
    order = random.permutation(len(names))
    ends = np.cumsum(weights[order] / weights.sum()) * count
    ranks = np.argsort(np.argsort(blurred))
    slices = np.minimum(np.searchsorted(ends, ranks, side="right"), len(names) - 1)
    return [names[order[index]] for index in slices]
