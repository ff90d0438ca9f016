"""What being seen costs: the same work with metrics off, with them, and with traces too, in one run.

    python bench/overhead.py [--rounds 5]

Each round starts a stack afresh for each way, another one first each time: 10,000 no-op tasks, and round trips of
single tasks. Metrics have no switch: to turn them off, they are made to do nothing in every service. Traces go to a
collector of OpenTelemetry's protocol that throws them away, in a process of its own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import statistics
import sys
import tempfile
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from peers.qonduit_host import ONE_WORKER, run_qonduit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection

OFF: Final = """
import prometheus_client
from prometheus_client import metrics

def nothing(*_arguments, **_options):
    pass

metrics.Counter.inc = metrics.Gauge.inc = metrics.Gauge.dec = metrics.Gauge.set = metrics.Histogram.observe = nothing
"""
WAYS: Final = ("metrics off", "metrics", "metrics and traces")
MEASURES: Final = ("no_ops_per_s", "mapped_no_ops_per_s", "round_trip_p50_ms", "round_trip_p95_ms")
_LIMIT_S: Final = 300.0


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Takes spans and keeps none."""

    def Export(self, _request: Any, _context: Any) -> trace_service_pb2.ExportTraceServiceResponse:  # noqa: N802
        """Take some."""
        return trace_service_pb2.ExportTraceServiceResponse()


def collect(told: Connection) -> None:
    """Be the collector until killed."""
    server = grpc.server(futures.ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Collector(), server)  # type: ignore[no-untyped-call]
    told.send(server.add_insecure_port("127.0.0.1:0"))
    server.start()
    server.wait_for_termination()


@contextmanager
def collector() -> Iterator[str]:
    """Run the collector; yields its address."""
    heard, told = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=collect, args=(told,))
    process.start()
    try:
        yield f"http://127.0.0.1:{heard.recv()}"
    finally:
        process.kill()
        process.join()


@contextmanager
def seen(way: str, patch: Path, endpoint: str) -> Iterator[None]:
    """Have the stacks that are started meanwhile be seen in one of the ways."""
    before = dict(os.environ)
    if way == "metrics off":
        # Python imports a module of this name at its start, before any service's own.
        os.environ["PYTHONPATH"] = str(patch)
    if way == "metrics and traces":
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = endpoint
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def main() -> None:
    """Measure and print the table."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))  # So that what was started is stopped.
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    rounds = parser.parse_args().rounds
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder, collector() as endpoint:
        patch = Path(folder)
        (patch / "sitecustomize.py").write_text(OFF)
        for number in range(rounds):
            for way in (WAYS[number % len(WAYS) :] + WAYS)[: len(WAYS)]:
                with seen(way, patch, endpoint):
                    found[way].append(run_qonduit(["noop", "roundtrip"], _LIMIT_S, ONE_WORKER))
                print(way, {name: round(found[way][-1][name], 2) for name in MEASURES}, flush=True)
    print(f"\n| median of {rounds}, and beside metrics off | {' | '.join(MEASURES)} |\n|---|" + "---|" * len(MEASURES))
    floor = {name: statistics.median(one[name] for one in found[WAYS[0]]) for name in MEASURES}
    for way in WAYS:
        medians = {name: statistics.median(one[name] for one in found[way]) for name in MEASURES}
        cells = (f"{medians[name]:,.2f} ({medians[name] / floor[name]:.2f}x)" for name in MEASURES)
        print(f"| {way} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
