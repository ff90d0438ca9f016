"""The gateway under load, as a user meets it: a stack without workers, where jobs are accepted, watched and canceled.

    python bench/gateway.py [--rounds 5] [--runs 1000] [--clients 100] [--watchers 1000] [--done 10000]

- `Run` calls: from 100 clients at once, each waiting for its answer before its next call; on SQLite and on PostgreSQL
  (both durable), one after the other in each round. The services and the clients share this machine.
- Watchers: 1,000 watches of one job on one gateway; what they add to its memory, and from the call that changes the
  job until the last of them was told.
- Scrape: /metrics of the gateway before and after so many jobs are done.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import statistics
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psutil
import psycopg
from own_stack import OwnStack, own_stack
from qonduit_api.v1 import jobs_pb2
from qonduit_api.v1.jobs_pb2_grpc import JobServiceStub
from qonduit_service_kit.private_postgresql import PostgresqlMissingError, private_postgresql
from qonduit_service_kit.rpc import channel

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

CHANNELS: Final = 10
TITLE: Final = "bench-gateway"
_SCRAPES: Final = 30
_AT_ONCE: Final = 50


@dataclass(frozen=True, slots=True)
class Server:
    """One stack without workers."""

    name: str
    stack: OwnStack

    @property
    def gateway(self) -> dict[str, Any]:
        """What the supervisor knows of its gateway."""
        known: dict[str, Any] = self.stack.services["gateway"]
        return known

    @property
    def memory_mb(self) -> float:
        """What the gateway's process alone holds."""
        return float(psutil.Process(self.gateway["pid"]).memory_full_info().uss) / 1e6

    def stubs(self) -> list[Any]:
        """Return stubs on connections of their own."""
        address = self.stack.address.removeprefix("http://")
        return [JobServiceStub(channel(address, token=self.stack.token)) for _ in range(CHANNELS)]


@contextmanager
def server(name: str, database_url: str = "") -> Iterator[Server]:
    """Run a stack without workers, with a function on it."""
    settings = {
        "QONDUIT_GATEWAY_DATABASE_URL": database_url,
        "QONDUIT_GATEWAY_LIMIT_ACTIVE_JOBS": "1000000",  # Counted with each run, and beyond what is run here.
    }
    with (
        tempfile.TemporaryDirectory(prefix="bench-gateway-") as folder,
        own_stack(Path(folder), "--workers", "0", **settings) as own,
    ):
        own.upload(TITLE, "", Path(folder, "sources"))
        yield Server(name, own)


async def in_turns(work: Iterable[Callable[[], Awaitable[object]]], at_once: int) -> list[float]:
    """Do all of it, so much at a time; returns the seconds that each took."""
    pending, seconds = iter(work), []

    async def one_after_another() -> None:
        for each in pending:
            begin = time.perf_counter()
            await each()
            seconds.append(time.perf_counter() - begin)

    await asyncio.gather(*(one_after_another() for _ in range(at_once)))
    return seconds


async def run_jobs(stubs: list[Any], runs: int, clients: int) -> tuple[list[str], list[float], float]:
    """Call Run so often, from so many clients; returns the jobs, each call's seconds, and those of all together."""
    jobs: list[str] = []

    def call(number: int) -> Callable[[], Awaitable[object]]:
        async def run() -> None:
            answer = await stubs[number % CHANNELS].Run(jobs_pb2.RunRequest(function_title=TITLE, arguments_json=b"{}"))
            jobs.append(answer.job.job_id)

        return run

    begin = time.perf_counter()
    seconds = await in_turns(map(call, range(runs)), clients)
    return jobs, seconds, time.perf_counter() - begin


async def cancel_jobs(stubs: list[Any], jobs: list[str]) -> None:
    """Cancel jobs that wait: then they are done."""

    def call(number: int, job_id: str) -> Callable[[], Awaitable[object]]:
        return lambda: stubs[number % CHANNELS].CancelJob(jobs_pb2.CancelJobRequest(job_id=job_id))

    await in_turns([call(number, job_id) for number, job_id in enumerate(jobs)], _AT_ONCE)


async def measure_runs(servers: list[Server], rounds: int, runs: int, clients: int) -> None:
    """Print the rates and the latencies of Run."""
    rates: dict[str, list[float]] = {one.name: [] for one in servers}
    latencies: dict[str, list[float]] = {one.name: [] for one in servers}
    stubs = {one.name: one.stubs() for one in servers}
    for number in range(rounds + 1):  # The first warms up and does not count.
        for one in servers if number % 2 else reversed(servers):
            jobs, seconds, took_s = await run_jobs(stubs[one.name], runs, clients)
            await cancel_jobs(stubs[one.name], jobs)
            if number:
                rates[one.name].append(runs / took_s)
                latencies[one.name] += seconds
    print(f"\n| `Run` from {clients} clients | calls/s | p50, ms | p99, ms |\n|---|---|---|---|")
    for one in servers:
        found = sorted(latencies[one.name])
        p99 = found[round(0.99 * (len(found) - 1))]
        rate = f"{statistics.median(rates[one.name]):,.0f} ({min(rates[one.name]):,.0f}-{max(rates[one.name]):,.0f})"
        print(f"| {one.name} | {rate} | {statistics.median(found) * 1000:.0f} | {p99 * 1000:.0f} |")


async def measure_watchers(one: Server, rounds: int, watchers: int) -> None:
    """Print what watches cost and how soon the last one is told."""
    stubs = one.stubs()
    lasts: list[float] = []
    before_mb, with_mb = one.memory_mb, 0.0
    for _ in range(rounds):
        (job_id,), _, _ = await run_jobs(stubs, 1, 1)
        watching = asyncio.Semaphore(0)

        async def watch(number: int, job_id: str = job_id, watching: asyncio.Semaphore = watching) -> float:
            async for answer in stubs[number % CHANNELS].WatchJob(jobs_pb2.WatchJobRequest(job_id=job_id)):
                watching.release()
                if answer.job.status == "CANCELED":
                    return time.perf_counter()
            raise RuntimeError("a watch ended before its job")

        tasks = [asyncio.create_task(watch(number)) for number in range(watchers)]
        for _ in range(watchers):
            await watching.acquire()
        with_mb = max(with_mb, one.memory_mb)
        begin = time.perf_counter()
        await stubs[0].CancelJob(jobs_pb2.CancelJobRequest(job_id=job_id))
        lasts.append(max(await asyncio.gather(*tasks)) - begin)
    print(f"\n| {watchers:,} watchers of one job | |\n|---|---|")
    print(f"| the gateway's own memory without, with them | {before_mb:.0f} MB, {with_mb:.0f} MB |")
    spread = f"{min(lasts) * 1000:.0f}-{max(lasts) * 1000:.0f}"
    print(f"| from the change to the last one told | {statistics.median(lasts) * 1000:.0f} ms ({spread}) |")


def scrape(one: Server) -> str:
    """Return what a scrape costs, in words."""
    url = f"http://127.0.0.1:{one.gateway['ports']['metrics_port']}/metrics"
    seconds = []
    for _ in range(_SCRAPES):
        begin = time.perf_counter()
        with urllib.request.urlopen(url, timeout=30) as answer:
            body = answer.read()
        seconds.append(time.perf_counter() - begin)
    samples = sum(not line.startswith(b"#") for line in body.splitlines())
    return f"{statistics.median(seconds) * 1000:.1f} ms | {len(body) / 1000:.0f} kB | {samples} |"


async def measure_scrapes(one: Server, done: int) -> None:
    """Print what a scrape costs before and after many jobs are done."""
    print("\n| scrape of the gateway | time, p50 | size | samples |\n|---|---|---|---|")
    print(f"| at first | {scrape(one)}")
    stubs = one.stubs()
    for _ in range(done // 1000):
        jobs, _, _ = await run_jobs(stubs, 1000, _AT_ONCE)
        await cancel_jobs(stubs, jobs)
    print(f"| {done:,} jobs later | {scrape(one)}")


async def measure(servers: list[Server], options: argparse.Namespace) -> None:
    """Take all measures."""
    await measure_scrapes(servers[0], options.done)
    await measure_runs(servers, options.rounds, options.runs, options.clients)
    await measure_watchers(servers[0], options.rounds, options.watchers)


def main() -> None:
    """Read the options and measure."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))  # So that what was started is stopped.
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rounds", 5), ("runs", 1000), ("clients", 100), ("watchers", 1000), ("done", 10_000)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default: {default}")
    options = parser.parse_args()
    with ExitStack() as open_:
        servers = [open_.enter_context(server("SQLite"))]
        try:
            url = open_.enter_context(private_postgresql(durable=True))
        except PostgresqlMissingError as error:
            print(f"Without PostgreSQL: {error}")
        else:
            with psycopg.connect(f"{url}/postgres", autocommit=True) as connection:
                connection.execute("CREATE DATABASE bench")
            servers.append(open_.enter_context(server("PostgreSQL", f"{url}/bench")))
        asyncio.run(measure(servers, options))


if __name__ == "__main__":
    main()
