"""What a trivial job costs by the REST front: submit, status, result; and how many statuses a second one gateway gives.

    python bench/rest.py [--jobs 200] [--pause 0] [--seconds 10] [--connections 1,50,200]

- The public client of Qiskit Serverless 0.37.0, unmodified, in an environment of its own: what its calls take, its own
  work and a new connection each time within them.
- The same requests on one kept connection, beside an empty route of the same server (/liveness), which is what HTTP
  costs without us. A status is asked for once the job is over, as the polls before are held until then.
- What the server itself says of these calls (`Server-Timing`: from the request's head to the answer's).
- Statuses and results a second from many kept connections while no job runs, and answers of the empty route beside
  them, with the CPU time that the gateway's process takes for each.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import psutil
import requests
from own_stack import own_stack

if TYPE_CHECKING:
    from collections.abc import Iterator

TITLE: Final = "bench-rest"
WARM_UP: Final = 5
VERSION: Final = "0.37.0"
BESIDE: Final = ("qiskit-ibm-runtime==0.50.0", "qiskit==2.6.2")
EMPTY: Final = "/liveness"
PROGRAM: Final = "from qiskit_serverless import save_result\nsave_result({'done': True})\n"
CLIENT: Final = """\
import json, os, sys, time
from qiskit_serverless import ServerlessClient
host, title, jobs = sys.argv[1:]
client = ServerlessClient(host=host, token=os.environ["TOKEN"], instance="any")
seconds = {"submit": [], "status": [], "result": []}
def timed(name, call):
    begin = time.perf_counter()
    value = call()
    seconds[name].append(time.perf_counter() - begin)
    return value
for number in range(int(jobs)):
    job = timed("submit", lambda: client.run(title))
    while not job.in_terminal_state():
        pass  # Each poll is held until the job is over, or for seconds.
    timed("status", job.status)
    assert timed("result", lambda: client.result(job.job_id)) == {"done": True}
print(json.dumps(seconds))
"""
CALLS: Final = ("empty route", "submit", "status", "result")
TOOK: Final = re.compile(r"total;dur=([0-9.]+)")


@dataclass(frozen=True, slots=True)
class Target:
    """A stack's REST front."""

    url: str
    token: str
    gateway: psutil.Process

    @property
    def cpu_s(self) -> float:
        """The CPU seconds that the gateway's process has taken."""
        times = self.gateway.cpu_times()
        return float(times.user + times.system)

    def request(self, path: str) -> bytes:
        """Return a GET on a connection that is kept."""
        host = urlsplit(self.url).netloc
        return f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {self.token}\r\n\r\n".encode()


@contextmanager
def stack() -> Iterator[Target]:
    """Run a stack with a trivial function on it."""
    with tempfile.TemporaryDirectory(prefix="bench-rest-") as folder, own_stack(Path(folder)) as own:
        own.upload(TITLE, PROGRAM, Path(folder, "sources"))
        gateway = own.services["gateway"]
        url = f"http://127.0.0.1:{gateway['ports']['rest_port']}"
        yield Target(url, own.token, psutil.Process(gateway["pid"]))


def by_client(target: Target, jobs: int) -> dict[str, list[float]]:
    """Return the seconds of the public client's calls."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from client_environments import serverless_environment_of  # noqa: PLC0415 - it is beside the tests.

    python = serverless_environment_of(VERSION, *BESIDE).python
    command = [python, "-c", CLIENT, target.url, TITLE, str(jobs + WARM_UP)]
    environment = {**os.environ, "TOKEN": target.token}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
    seconds: dict[str, list[float]] = json.loads(done.stdout)
    return {name: values[WARM_UP:] for name, values in seconds.items()}


class KeptConnection:
    """One connection that is kept: how long each call took its client, and of that the server."""

    def __init__(self, target: Target) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(target.url).netloc)
        self._headers = {"Authorization": f"Bearer {target.token}", "Content-Type": "application/json"}
        self.seconds: dict[str, list[float]] = {name: [] for name in CALLS}
        self.inside: dict[str, list[float]] = {name: [] for name in CALLS}

    def call(self, name: str, method: str, path: str, body: str | None = None) -> Any:
        """Make a call, and return the JSON of its answer."""
        begin = time.perf_counter()
        self._connection.request(method, path, body, self._headers)
        answer = self._connection.getresponse()
        content = answer.read()
        took = time.perf_counter() - begin
        assert answer.status == http.client.OK, content
        inside = TOOK.search(answer.headers["Server-Timing"])
        assert inside is not None
        self.seconds[name].append(took)
        self.inside[name].append(float(inside[1]) / 1000)
        return json.loads(content)

    def forget_last(self, name: str) -> None:
        """Take the last call of a name out again."""
        self.seconds[name].pop()
        self.inside[name].pop()

    def close(self) -> None:
        """Close it, and take out what only warmed up."""
        self._connection.close()
        for name in CALLS:
            del self.seconds[name][:WARM_UP], self.inside[name][:WARM_UP]


def by_hand(target: Target, jobs: int, pause_s: float) -> KeptConnection:
    """Make the same requests on one kept connection, and one to the empty route before each job."""
    kept = KeptConnection(target)
    run = json.dumps({"title": TITLE, "provider": None, "arguments": "{}", "function_size": None, "config": None})
    for _ in range(jobs + WARM_UP):
        time.sleep(pause_s)
        kept.call("empty route", "GET", EMPTY)
        path = f"/api/v1/jobs/{kept.call('submit', 'POST', '/api/v1/programs/run', run)['id']}"
        while kept.call("status", "GET", f"{path}?with_result=false")["status"] != "SUCCEEDED":
            kept.forget_last("status")
        kept.forget_last("status")  # It was held, too.
        kept.call("status", "GET", f"{path}?with_result=false")
        assert json.loads(kept.call("result", "GET", f"{path}/result")["result"]) == {"done": True}
    kept.close()
    return kept


async def rate(target: Target, path: str, connections: int, seconds: float) -> tuple[float, list[float]]:
    """Return how many answers a second so many connections get, each one after another, and each answer's seconds."""
    host, _, port = urlsplit(target.url).netloc.partition(":")
    request, took = target.request(path), list[float]()
    end = time.perf_counter() + seconds

    async def one() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        while (begin := time.perf_counter()) < end:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            await reader.readexactly(int(length[1]) if length else 0)
            took.append(time.perf_counter() - begin)
        writer.close()

    begin = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(connections)))
    return len(took) / (time.perf_counter() - begin), took


def milliseconds(seconds: list[float]) -> str:
    """Return p50 and p95 in cells of a table."""
    ordered = sorted(seconds)
    return f"{statistics.median(ordered) * 1000:.1f} | {ordered[round(0.95 * (len(ordered) - 1))] * 1000:.1f}"


def measure_calls(target: Target, jobs: int, pause_s: float) -> None:
    """Print what each call takes."""
    public = by_client(target, jobs)
    kept = by_hand(target, jobs, pause_s)
    print(f"\n| {jobs} jobs, ms | client p50 | p95 | kept connection p50 | p95 | in the server p50 | p95 |")
    print("|---|---|---|---|---|---|---|")
    for name in CALLS:
        client = milliseconds(public[name]) if name in public else " | "
        print(f"| {name} | {client} | {milliseconds(kept.seconds[name])} | {milliseconds(kept.inside[name])} |")


def measure_rates(target: Target, seconds: float, connections: list[int]) -> None:
    """Print how many answers a second there are, and the CPU time of each."""
    headers = {"Authorization": f"Bearer {target.token}"}
    page = requests.get(f"{target.url}/api/v1/jobs", {"limit": 1}, headers=headers, timeout=30).json()
    job = f"/api/v1/jobs/{page['results'][0]['id']}"
    paths = {"status": f"{job}?with_result=false", "result": f"{job}/result", "empty route": EMPTY}
    print("\n| connections | | answers/s | p50, ms | p95, ms | the gateway's CPU, ms |\n|---|---|---|---|---|---|")
    for number in connections:
        for name, path in paths.items():
            asyncio.run(rate(target, path, number, 1.0))
            before = target.cpu_s
            answers, took = asyncio.run(rate(target, path, number, seconds))
            cpu_ms = (target.cpu_s - before) / len(took) * 1000
            print(f"| {number} | {name} | {answers:,.0f} | {milliseconds(took)} | {cpu_ms:.2f} |")


def main() -> None:
    """Read the options and measure."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))  # So that what was started is stopped.
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=200, help="default: 200")
    parser.add_argument("--pause", type=float, default=0, help="seconds before each job by hand; default: none")
    parser.add_argument("--seconds", type=float, default=10, help="of each rate; default: 10")
    parser.add_argument("--connections", default="1,50,200", help="default: 1,50,200")
    options = parser.parse_args()
    with stack() as target:
        measure_calls(target, options.jobs, options.pause)
        measure_rates(target, options.seconds, [int(each) for each in options.connections.split(",")])


if __name__ == "__main__":
    main()
