"""What is measured of a simulated schedule."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from simulation.workload import Workload

BUSY_QUEUE: Final = 20
"""Utilisation is taken over the time in which at least this many tasks wait."""
BIG_CPU_MILLIS: Final = 24_000
_SHORTEST_S: Final = 10.0


@dataclass(slots=True)
class Schedule:
    """When each task began, by task id; NaN if it never did."""

    starts: np.ndarray
    decisions: list[tuple[int, float]] = field(default_factory=list)
    """(queue length, seconds) of each decision, where it was measured."""


@dataclass(frozen=True, slots=True)
class Measures:
    """One schedule in numbers; seconds, and fractions of 1."""

    utilisation: float
    """Of cpu, while at least BUSY_QUEUE tasks wait."""
    utilisation_all: float
    """The same from the first to the last arrival, whatever waits."""
    over_bound: float
    wait_mean_s: float
    wait_p50_s: float
    wait_p95_s: float
    wait_max_s: float
    big_wait_p95_s: float
    big_wait_max_s: float
    slowdown: float
    """Mean of max(1, (wait + run) / max(run, 10 s)) (Feitelson et al., JSSPP 1997)."""
    slowdown_p95: float
    fairness: float
    """Jain's index of the users' mean slowdowns: 1 if all are served alike."""
    worst_user: float
    """The largest of the users' mean slowdowns."""


def measure(workload: Workload, schedule: Schedule) -> Measures:
    """Return the measures of a complete schedule; ValueError if a task never began."""
    starts = schedule.starts
    if np.isnan(starts).any():
        raise ValueError(f"{int(np.isnan(starts).sum())} tasks were never placed")
    arrives = np.array([task.arrives_at for task in workload.tasks])
    run = np.array([task.run_s for task in workload.tasks])
    waits = starts - arrives
    slowdowns = np.maximum(1.0, (waits + run) / np.maximum(run, _SHORTEST_S))
    big = waits[[task.shape.cpu_millis >= BIG_CPU_MILLIS for task in workload.tasks]]
    by_user: dict[str, list[float]] = {}
    for task, slowdown in zip(workload.tasks, slowdowns, strict=True):
        by_user.setdefault(task.user, []).append(float(slowdown))
    means = np.array([np.mean(values) for values in by_user.values()])
    return Measures(
        utilisation=_utilisation(workload, arrives, starts, run, busy=True),
        utilisation_all=_utilisation(workload, arrives, starts, run, busy=False),
        over_bound=float((starts + run).max() / workload.bound_s()),
        wait_mean_s=float(waits.mean()),
        wait_p50_s=float(np.percentile(waits, 50)),
        wait_p95_s=float(np.percentile(waits, 95)),
        wait_max_s=float(waits.max()),
        big_wait_p95_s=float(np.percentile(big, 95)) if len(big) else 0.0,
        big_wait_max_s=float(big.max()) if len(big) else 0.0,
        slowdown=float(slowdowns.mean()),
        slowdown_p95=float(np.percentile(slowdowns, 95)),
        fairness=float(means.sum() ** 2 / (len(means) * (means**2).sum())),
        worst_user=float(means.max()),
    )


def mean_of(measures: list[Measures]) -> Measures:
    """Return the mean of each measure over several seeds."""
    fields = Measures.__dataclass_fields__
    return Measures(**{name: float(np.mean([getattr(one, name) for one in measures])) for name in fields})


def _utilisation(workload: Workload, arrives: np.ndarray, starts: np.ndarray, run: np.ndarray, *, busy: bool) -> float:
    """Return the use of cpu up to the last arrival; `busy`: only (and also later) while the queue is long."""
    cpu = np.array([task.shape.cpu_millis for task in workload.tasks]) / workload.total.cpu_millis
    times = np.concatenate([arrives, starts, starts + run])
    queued = np.concatenate([np.ones(len(cpu)), -np.ones(len(cpu)), np.zeros(len(cpu))])
    used = np.concatenate([np.zeros(len(cpu)), cpu, -cpu])
    order = np.argsort(times, kind="stable")
    times = times[order]
    lengths = np.diff(times)
    use = np.cumsum(used[order])[:-1]
    counts = times[:-1] < arrives.max()
    if busy:
        long_queue = np.cumsum(queued[order])[:-1] >= BUSY_QUEUE
        counts = long_queue if long_queue.any() else counts
    return float((use * lengths)[counts].sum() / lengths[counts].sum())
