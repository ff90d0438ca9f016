"""What is measured, once for all systems: each measure gives numbers by name."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any, Final

from peers.system import EXECUTORS
from peers.workloads import (
    byte_count,
    make_arrays,
    make_circuits,
    no_op,
    pause,
    transpile,
    transpile_from_backend,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from peers.system import System

NO_OPS: Final = 10_000
ROUND_TRIPS: Final = 200
ARRAYS: Final = 100
ARRAY_BYTES: Final = 1_000_000
SHARED_BYTES: Final = 50_000_000
CALLS_WITH_SHARED: Final = 100
CALLS_WITHOUT_SHARING: Final = 10
"""A system that sends the 50 MB with each call is given fewer calls; the number is a rate."""
WARM_BATCHES: Final = 3
"""Of level 1, where a batch takes seconds only: a moment's noise counts for more in it than in the longer measures."""
_PAUSE_S: Final = 0.2


def warm(system: System) -> None:
    """Have both executors run, and connections and caches warm; not measured."""
    system.call_all(pause, [(_PAUSE_S,)] * (4 * EXECUTORS))
    system.call_all(no_op, [()] * 200)


def no_ops(system: System) -> dict[str, float]:
    """Tasks a second: from the first call to the last of 10,000 values."""
    warm(system)
    seconds = _timed(lambda: system.call_all(no_op, [()] * NO_OPS))
    numbers = {"no_ops_per_s": NO_OPS / seconds}
    start = time.perf_counter()
    if system.map_all(no_op, range(NO_OPS)) is not None:
        numbers["mapped_no_ops_per_s"] = NO_OPS / (time.perf_counter() - start)
    return numbers


def round_trips(system: System) -> dict[str, float]:
    """Milliseconds from a call to its value, one after another."""
    warm(system)
    seconds = sorted(_timed(lambda: system.call(no_op)) for _ in range(ROUND_TRIPS))
    return {
        "round_trip_p50_ms": statistics.median(seconds) * 1000,
        "round_trip_p95_ms": seconds[round(0.95 * (ROUND_TRIPS - 1))] * 1000,
    }


def arrays(system: System) -> dict[str, float]:
    """Tasks a second, each with an array of its own of 1 MB."""
    warm(system)
    system.call_all(byte_count, [(array,) for array in make_arrays(4, ARRAY_BYTES)])
    calls = [(array,) for array in make_arrays(ARRAYS, ARRAY_BYTES)]
    return {"arrays_per_s": ARRAYS / _timed(lambda: system.call_all(byte_count, calls))}


def shared_array(system: System) -> dict[str, float]:
    """Tasks a second, all with the same array of 50 MB; sharing it is part of the time."""
    warm(system)
    system.call_all(byte_count, [(system.share(make_arrays(1, ARRAY_BYTES)[0]),)] * 4)
    array = make_arrays(1, SHARED_BYTES)[0]
    count = CALLS_WITH_SHARED if system.shares else CALLS_WITHOUT_SHARING

    def run() -> list[Any]:
        shared = system.share(array)
        return system.call_all(byte_count, [(shared,)] * count)

    return {"shared_per_s": count / _timed(run)}


def _fan_out(
    system: System, name: str, task: Callable[..., Any], *options: Any, warm_batches: int = 1
) -> dict[str, float]:
    """Seconds from the first call to the last circuit, unpacked: the first batch of all, and the next (the median)."""
    calls = [(circuit, *options) for circuit in make_circuits()]

    def batch() -> float:
        return _timed(lambda: _look_at(system.call_all(task, calls)))

    return {f"{name}_cold_s": batch(), f"{name}_warm_s": statistics.median(batch() for _ in range(warm_batches))}


def _look_at(circuits: Sequence[Any]) -> int:
    """Touch every circuit: a system that unpacks a value only when it is looked at has that to do, too."""
    gates = sum(len(circuit.data) for circuit in circuits)
    if not gates:
        raise ValueError("the transpiled circuits are empty")
    return gates


def level_1(system: System) -> dict[str, float]:
    """64 circuits at level 1, the pass manager made once a process."""
    return _fan_out(system, "level_1", transpile, 1, warm_batches=WARM_BATCHES)


def level_3(system: System) -> dict[str, float]:
    """64 circuits at level 3, the pass manager made once a process."""
    return _fan_out(system, "level_3", transpile, 3)


def own_pass_manager(system: System) -> dict[str, float]:
    """64 circuits at level 1, each task making its pass manager from `service.backend(name)`."""
    return _fan_out(system, "own_pass_manager", transpile_from_backend, 1, "fake_torino")


MEASURES: Final[dict[str, Callable[[System], dict[str, float]]]] = {
    "noop": no_ops,
    "roundtrip": round_trips,
    "arrays": arrays,
    "shared": shared_array,
    "level1": level_1,
    "level3": level_3,
    "ownpm": own_pass_manager,
}
"""By the name for the command line; "first" and "memory" are measured around the start of a system."""


def _timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
