"""The scheduler's own core in simulated clusters, beside known policies: utilisation, waits, slowdown, decision time.

    python bench/simulate.py --trace FOLDER     (the whole of SIMULATION.md: about half an hour on two cores)
    python bench/simulate.py                    (made-up shapes only; prints, writes nothing)
    python bench/simulate.py --scale 320        (decision times alone, with so many workers; prints)

FOLDER holds openb_pod.csv of Alibaba's public "GPU cluster trace v2023"
(github.com/alibaba/clusterdata, cluster-trace-gpu-v2023, csv/openb_pod_list_default.csv); this repository has no copy.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from qonduit_scheduler.policy import PolicySettings
from simulation import baselines, real_core, report
from simulation.measures import Measures, mean_of, measure
from simulation.scale import measure_scale
from simulation.workload import draw, machine, made_up_shapes, recorded_shapes

if TYPE_CHECKING:
    from qonduit_service_kit.messages import Shape
    from simulation.workload import Workload

_WORKERS: Final = (machine(32, 128, 4),) * 8
_SETTINGS: Final = PolicySettings()
_GIB: Final = 1024**3
_FIRST_SEED: Final = 11
"""The scheduler's settings were chosen on seeds 101 to 124: what is reported must not come from them."""
_FEW: Final = 3
"""Seeds of the tables that only show how things depend on each other."""
_RECORDED: Final = "recorded shapes, load {load}"


@dataclass(frozen=True, slots=True)
class Case:
    """One cell: a policy on one draw."""

    title: str
    policy: str
    workload: Workload
    settings: PolicySettings = _SETTINGS


def play(case: Case) -> tuple[Measures, np.ndarray]:
    """Return the measures and the waits, in seconds, of one cell."""
    baseline = baselines.BASELINES.get(case.policy)
    if baseline is None:
        schedule = real_core.run(case.workload, case.settings)
    else:
        schedule = baselines.run(case.workload, baseline)
    return measure(case.workload, schedule), schedule.starts - [task.arrives_at for task in case.workload.tasks]


def cases(trace: list[Shape] | None, tasks: int, seeds: range) -> list[Case]:
    """Return all cells of all tables."""
    found: list[Case] = []
    made_up = made_up_shapes(5_000, np.random.default_rng(1))
    sources = [(_RECORDED, trace)] if trace is not None else []
    for form, shapes in [*sources, ("made-up shapes, load {load}", made_up)]:
        for load in (0.9, 1.2):
            for seed in seeds if form is _RECORDED else seeds[:_FEW]:
                workload = draw(form, shapes, _WORKERS, count=tasks, load=load, seed=seed)
                title = form.format(load=load)
                found += [Case(title, policy, workload) for policy in (*baselines.BASELINES, report.OURS)]
    for likeness in (0.0, 0.5, 0.9, 1.0) if trace is not None else ():
        for seed in seeds[:_FEW]:
            assert trace is not None
            workload = draw("", trace, _WORKERS, count=tasks, load=0.9, seed=seed, likeness=likeness)
            found.append(Case(_LIKENESS, f"run times of a name correlate by {likeness}", workload))
    return found


_LIKENESS: Final = "How much the predictions matter (recorded shapes, load 0.9)"
_NOTES: Final = {
    _LIKENESS: "Qonduit's scheduler where a name tells nothing about the run time (0), and where it tells all (1).",
}


def run_all(trace: list[Shape] | None, tasks: int, seeds: range) -> report.Results:
    """Play all cells, two at a time."""
    results = report.Results(notes=dict(_NOTES))
    todo = cases(trace, tasks, seeds)
    with ProcessPoolExecutor(2) as pool:
        played = list(zip(todo, pool.map(play, todo), strict=True))
    for title in dict.fromkeys(case.title for case in todo):
        of_table = [(case.policy, found) for case, found in played if case.title == title]
        for policy in dict.fromkeys(name for name, _ in of_table):
            seeds_of = [found[0] for name, found in of_table if name == policy]
            results.tables.setdefault(title, {})[policy] = (mean_of(seeds_of), seeds_of)
            if title == todo[0].title:
                results.waits[policy] = np.concatenate([found[1] for name, found in of_table if name == policy])
    return results


def print_scale(workers: int, *, any_memory: bool) -> None:
    """Print the decision times with so many workers; memory in whole GiB, or each shape with bytes of its own."""
    shapes = made_up_shapes(5_000, np.random.default_rng(1))
    if not any_memory:
        shapes = [replace(shape, mem_bytes=max(1, round(shape.mem_bytes / _GIB)) * _GIB) for shape in shapes]
    queues = (100, 1_000, 10_000)
    print(f"{workers:,} workers, {len(set(shapes)):,} different shapes\n")
    print(report.scale_table(measure_scale(shapes, _SETTINGS, queues, workers)))


def main() -> None:
    """Simulate, print the tables, write SIMULATION.md if the trace is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", type=Path, help="folder with openb_pod.csv")
    parser.add_argument("--tasks", type=int, default=3_000)
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="where SIMULATION.md goes")
    parser.add_argument("--scale", type=int, metavar="WORKERS", help="only the decision times, with made-up shapes")
    parser.add_argument("--any-memory", action="store_true", help="with --scale: memory to the byte, not in whole GiB")
    options = parser.parse_args()
    if options.scale is not None:
        print_scale(options.scale, any_memory=options.any_memory)
        return
    if options.trace is not None and not (options.trace / "openb_pod.csv").is_file():
        parser.error(f"there is no openb_pod.csv in {options.trace}; see --help for where it comes from")
    trace = None if options.trace is None else recorded_shapes(options.trace)
    results = run_all(trace, options.tasks, range(_FIRST_SEED, _FIRST_SEED + options.seeds))
    results.scales = measure_scale(trace or made_up_shapes(5_000, np.random.default_rng(1)), _SETTINGS)
    for title, rows in results.tables.items():
        print(f"\n{title}\n\n{report.table(rows)}")
    print(f"\ndecision time\n\n{report.scale_table(results.scales)}")
    if trace is not None:
        report.write(results, options.out)


if __name__ == "__main__":
    main()
