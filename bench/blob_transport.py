"""What it costs to bring large values to other processes of a machine: by name, against the pipes of a process pool.

    python bench/blob_transport.py --rounds 5

Both use the same ProcessPoolExecutor of 2 processes for the calls; only the way of the bytes differs:
- by pipe: the value is an argument, pickled into the pool's pipe, as `concurrent.futures` does it
- by name: `store_parts` to a worker's agent (a process of its own), the name is the argument, the task maps it
- sha256: the same with an agent that finds equal values by sha256, as away from the driver's worker and for storage
Rounds are interleaved. A task reads one byte of each page. `cpu` is of all processes together, the agent too.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import multiprocessing
import os
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import xxhash
from qonduit.program.blobs import SOCKET_NAME, fetch_view, store_parts
from qonduit.program.channel import AgentChannel

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnContext, SpawnProcess

    from qonduit_worker.blob_names import Hash

PAGE = 4096
MB = 1_000_000


HASHES: dict[str, Callable[[], Hash]] = {"": xxhash.xxh3_128, ", sha256": hashlib.sha256}
"""How agents find equal values; the first is that of a worker."""


def serve(folder: str, way: str, ready: Connection) -> None:
    """Be the agent until killed; its storage is never reached, since all happens on one machine."""
    from qonduit_worker.blob_exchange import BlobExchange  # noqa: PLC0415 - Only in this process.
    from qonduit_worker.blob_server import BlobServer  # noqa: PLC0415
    from qonduit_worker.blobs import BlobCache, JobBlobs  # noqa: PLC0415

    async def run() -> None:
        unused: Any = None
        cache = BlobCache(Path(folder, "cache"), capacity_bytes=2 * 1024**3, quick_hash=HASHES[way])
        exchange = BlobExchange(unused, cache, "worker")
        blobs = JobBlobs(cache, unused, exchange, job_id="job", attempt=1, home="worker")
        await BlobServer(Path(folder, SOCKET_NAME), blobs).start()
        ready.send("ready")
        await asyncio.Event().wait()

    asyncio.run(run())


def touch(data: bytes | memoryview) -> int:
    """Read one byte of each page."""
    return sum(data[::PAGE])


def touch_by_name(path: str, name: str) -> int:
    """Do the same to a value that an agent has."""
    return touch(fetch_view(AgentChannel(path), name))


def cpu_s(processes: list[psutil.Process]) -> float:
    """Return the CPU seconds of some processes so far."""
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def measure(run: Callable[[], None], processes: list[psutil.Process]) -> tuple[float, float]:
    """Return the wall and CPU seconds of a run."""
    cpu, start = cpu_s(processes), time.perf_counter()
    run()
    return time.perf_counter() - start, cpu_s(processes) - cpu


def start_agent(context: SpawnContext, folder: str, way: str) -> tuple[SpawnProcess, str]:
    """Start an agent; return it and the path of its channel."""
    own = Path(folder, f"agent{way}")
    own.mkdir()
    ready, told = context.Pipe()
    agent = context.Process(target=serve, args=(str(own), way, told), daemon=True)
    agent.start()
    ready.recv()
    return agent, str(own / "agent.sock")


def take_rounds(rounds: int, pool: ProcessPoolExecutor, agents: dict[str, str]) -> dict[str, list[tuple[float, float]]]:
    """Return the wall and CPU seconds of each way, by what it is called; `agents` has the paths by how they hash."""
    processes = [psutil.Process(), *psutil.Process().children()]

    def by_pipe(values: list[bytes]) -> None:
        list(pool.map(touch, values))

    def by_name(path: str, values: list[bytes]) -> None:
        calls = [pool.submit(touch_by_name, path, store_parts(AgentChannel(path), [value])) for value in values]
        for call in calls:
            call.result()

    def shared_by_name(path: str, values: list[bytes]) -> None:
        name = store_parts(AgentChannel(path), values[:1])
        list(pool.map(touch_by_name, [path] * len(values), [name] * len(values)))

    found: dict[str, list[tuple[float, float]]] = {}
    for _ in range(rounds):
        own = [os.urandom(MB) for _ in range(100)]
        shared = [os.urandom(50 * MB)] * 100
        ways: list[tuple[str, Callable[[], None]]] = [
            ("100 x 1 MB, by pipe", partial(by_pipe, own)),
            *((f"100 x 1 MB, by name{way}", partial(by_name, path, own)) for way, path in agents.items()),
            ("50 MB for 10 tasks, by pipe", partial(by_pipe, shared[:10])),
            *(
                (f"50 MB for {count} tasks, by name{way}", partial(shared_by_name, path, shared[:count]))
                for count in (10, 100)
                for way, path in agents.items()
            ),
        ]
        for name, run in ways:
            found.setdefault(name, []).append(measure(run, processes))
    return found


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(2, mp_context=context) as pool:
        agents = {way: start_agent(context, folder, way) for way in HASHES}
        list(pool.map(touch, [b"x"] * 50))  # Both processes are there.
        found = take_rounds(rounds, pool, {way: path for way, (_, path) in agents.items()})
        for agent, _ in agents.values():
            agent.kill()
            agent.join()
    print("| | wall ms | cpu ms |\n|---|---|---|")
    for name, seconds in found.items():
        wall, cpu = (statistics.median(column) * 1000 for column in zip(*seconds, strict=True))
        print(f"| {name} | {wall:.0f} | {cpu:.0f} |")


if __name__ == "__main__":
    main()
