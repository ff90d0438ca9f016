"""What it costs to bring large values to other processes of a machine: by digest, against the pipes of a process pool.

    python bench/blob_transport.py --rounds 5

Both use the same ProcessPoolExecutor of 2 processes for the calls; only the way of the bytes differs:
- by pipe: the value is an argument, pickled into the pool's pipe, as `concurrent.futures` does it
- by digest: `store_parts` to a worker's agent (a process of its own), the digest is the argument, the task maps it
Rounds are interleaved. A task reads one byte of each page. `cpu` is of all processes together, the agent too.
"""

from __future__ import annotations

import argparse
import asyncio
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
from qonduit.program.blobs import SOCKET_NAME, fetch_view, store_parts
from qonduit.program.channel import AgentChannel

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

PAGE = 4096
MB = 1_000_000


def serve(folder: str, ready: Connection) -> None:
    """Be the agent until killed; its storage is never reached, since all happens on one machine."""
    from qonduit_worker.blob_exchange import BlobExchange  # noqa: PLC0415 - Only in this process.
    from qonduit_worker.blob_server import BlobServer  # noqa: PLC0415
    from qonduit_worker.blobs import BlobCache, JobBlobs  # noqa: PLC0415

    async def run() -> None:
        unused: Any = None
        cache = BlobCache(Path(folder, "cache"), capacity_bytes=2 * 1024**3)
        exchange = BlobExchange(unused, cache, "worker")
        blobs = JobBlobs(cache, unused, exchange, job_id="job", attempt=1, home="worker")
        await BlobServer(Path(folder, SOCKET_NAME), blobs).start()
        ready.send("ready")
        await asyncio.Event().wait()

    asyncio.run(run())


def touch(data: bytes | memoryview) -> int:
    """Read one byte of each page."""
    return sum(data[::PAGE])


def touch_by_digest(path: str, digest: str) -> int:
    """Do the same to a value that is named by its digest."""
    return touch(fetch_view(AgentChannel(path), digest))


def cpu_s(processes: list[psutil.Process]) -> float:
    """Return the CPU seconds of some processes so far."""
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def measure(run: Callable[[], None], processes: list[psutil.Process]) -> tuple[float, float]:
    """Return the wall and CPU seconds of a run."""
    cpu, start = cpu_s(processes), time.perf_counter()
    run()
    return time.perf_counter() - start, cpu_s(processes) - cpu


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(2, mp_context=context) as pool:
        ready, told = context.Pipe()
        agent = context.Process(target=serve, args=(folder, told), daemon=True)
        agent.start()
        ready.recv()
        path = str(Path(folder, "agent.sock"))
        channel = AgentChannel(path)
        list(pool.map(touch, [b"x"] * 50))  # Both processes are there.
        processes = [psutil.Process(), *psutil.Process().children()]

        def by_pipe(values: list[bytes]) -> None:
            list(pool.map(touch, values))

        def by_digest(values: list[bytes]) -> None:
            calls = [pool.submit(touch_by_digest, path, store_parts(channel, [value])) for value in values]
            for call in calls:
                call.result()

        def shared_by_digest(values: list[bytes]) -> None:
            digest = store_parts(channel, values[:1])
            list(pool.map(touch_by_digest, [path] * len(values), [digest] * len(values)))

        found: dict[str, list[tuple[float, float]]] = {}
        for _ in range(rounds):
            own = [os.urandom(MB) for _ in range(100)]
            shared = [os.urandom(50 * MB)] * 100
            for name, way, values in (
                ("100 x 1 MB, by pipe", by_pipe, own),
                ("100 x 1 MB, by digest", by_digest, own),
                ("50 MB for 10 tasks, by pipe", by_pipe, shared[:10]),
                ("50 MB for 10 tasks, by digest", shared_by_digest, shared[:10]),
                ("50 MB for 100 tasks, by digest", shared_by_digest, shared),
            ):
                found.setdefault(name, []).append(measure(partial(way, values), processes))
        agent.kill()
    print("| | wall ms | cpu ms |\n|---|---|---|")
    for name, seconds in found.items():
        wall, cpu = (statistics.median(column) * 1000 for column in zip(*seconds, strict=True))
        print(f"| {name} | {wall:.0f} | {cpu:.0f} |")


if __name__ == "__main__":
    main()
