"""One start of one system, measured: runs in the peers' environment, prints its numbers as JSON on the last line.

    python -m peers.session ray BEGUN noop,roundtrip

BEGUN is the time (seconds since the epoch) just before this process was started.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Final

import psutil
from peers.measures import MEASURES
from peers.workloads import no_op

if TYPE_CHECKING:
    from peers.system import System

SETTLE_S: Final = 3.0
"""An idle system's memory is read this long after its last task."""
MEMORY_AFTER: Final = "level1"
"""After this measure the memory is read once more: all systems hold Qiskit then."""


def proportional_bytes(roots: list[int]) -> int:
    """Return the memory of processes and all below them, what they share divided among its users (PSS)."""
    seen: dict[int, psutil.Process] = {}
    for pid in roots:
        root = psutil.Process(pid)
        seen.update({process.pid: process for process in (root, *root.children(recursive=True))})
    total = 0
    for process in seen.values():
        try:
            total += process.memory_full_info().pss
        except psutil.NoSuchProcess:  # It ended meanwhile.
            continue
    return total


def _idle_memory_mb() -> float:
    """Return what this program, all below it, and the servers that it uses hold, some seconds after a task."""
    time.sleep(SETTLE_S)
    servers = [int(pid) for pid in os.environ.get("BENCH_SERVER_PIDS", "").split()]
    return proportional_bytes([os.getpid(), *servers]) / 1e6


def measure(system: System, begun: float, names: list[str]) -> dict[str, float]:
    """Start a system, take the measures, stop it."""
    numbers: dict[str, float] = {}
    system.start()
    try:
        system.call(no_op)
        numbers["first_s"] = time.time() - begun
        if "memory" in names:
            numbers["memory_mb"] = _idle_memory_mb()
        for name in names:
            if name in MEASURES:
                numbers |= MEASURES[name](system)
        if MEMORY_AFTER in names:
            numbers["memory_after_mb"] = _idle_memory_mb()
    finally:
        system.stop()
    return {name: value for name, value in numbers.items() if name != "first_s" or "first" in names}


def main() -> None:
    """Do what the module's docstring says."""
    name, begun, names = sys.argv[1:]
    module = importlib.import_module(f"peers.{name}_system")
    numbers = measure(module.make_system(), float(begun), names.split(","))
    print(json.dumps(numbers), flush=True)


if __name__ == "__main__":
    main()
