"""`python -m fake_ibm`: the service as a process, for benchmarks and for trying things out.

Prints one line of JSON when it serves: its URL, and the variables that lead a client to it. `GET /fake/seen` tells how
many requests came, `GET /fake/billed` the QPU seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys

from aiohttp import web

from fake_ibm.server import FakeIbm
from fake_ibm.state import Instance


async def serve(queue_s: float, run_s: float) -> None:
    """Serve until a signal comes."""
    ibm = FakeIbm(Instance(plan="paygo", limit_s=1e9))
    ibm.quantum.running.queue_s, ibm.quantum.running.run_s = queue_s, run_s

    async def seen(_request: web.Request) -> web.Response:
        return web.json_response({f"{method} {path}": number for (method, path), number in ibm.counts().items()})

    async def billed(_request: web.Request) -> web.Response:
        return web.json_response(ibm.quantum.billed_s)

    await ibm.start(web.get("/fake/seen", seen), web.get("/fake/billed", billed))
    sys.stdout.write(json.dumps({"url": ibm.url, "environment": ibm.environment(), "hosts": ibm.hosts()}) + "\n")
    sys.stdout.flush()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await ended.wait()
    await ibm.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queue", type=float, default=0.0, help="Seconds a job waits at least.")
    parser.add_argument("--run", type=float, default=0.0, help="Seconds a job runs at least.")
    options = parser.parse_args()
    asyncio.run(serve(options.queue, options.run))
