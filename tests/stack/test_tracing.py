"""One trace shows a whole job: from its client's call over every service to its tasks and its QPU job."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent import futures
from contextlib import contextmanager
from typing import TYPE_CHECKING

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from stack_control import Stack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opentelemetry.proto.trace.v1.trace_pb2 import Span
    from qonduit import Job

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PROGRAM = """\
from qiskit import QuantumCircuit
from qiskit.transpiler import generate_preset_pass_manager
from qiskit_ibm_runtime import QiskitRuntimeService, SamplerV2
from qiskit_serverless import Job, distribute_task, get, save_result, update_status

@distribute_task(target={"cpu": 1}, name="square")
def square(number):
    return number * number

@distribute_task(target={"cpu": 1}, name="fail")
def fail():
    raise ValueError("as it should")

update_status(Job.MAPPING)
squares = get([square(number) for number in range(3)])
try:
    get(fail())
except ValueError:
    pass
circuit = QuantumCircuit(1)
circuit.measure_all()
backend = QiskitRuntimeService().backend("ibm_torino")
isa_circuit = generate_preset_pass_manager(optimization_level=0, backend=backend).run(circuit)
SamplerV2(mode=backend).run([isa_circuit], shots=100).result()
save_result({"squares": squares})
"""


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Takes spans as any collector does, and keeps them."""

    def __init__(self) -> None:
        self.spans: dict[str, Span] = {}
        self.services: dict[str, str] = {}
        self._changed = threading.Condition()
        self.server = grpc.server(futures.ThreadPoolExecutor(4))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self.server)

    def Export(  # noqa: N802 - as OTLP calls it.
        self, request: trace_service_pb2.ExportTraceServiceRequest, _context: grpc.ServicerContext
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        with self._changed:
            for of_service in request.resource_spans:
                service = {a.key: a.value.string_value for a in of_service.resource.attributes}["service.name"]
                for span in (span for scope in of_service.scope_spans for span in scope.spans):
                    self.spans[span.span_id.hex()] = span
                    self.services[span.span_id.hex()] = service
            self._changed.notify_all()
        return trace_service_pb2.ExportTraceServiceResponse()

    def of_trace(self, trace_id: str) -> dict[str, Span]:
        return {own: span for own, span in self.spans.items() if span.trace_id.hex() == trace_id}

    def wait_for(self, trace_id: str, *names: str, services: frozenset[str] = frozenset()) -> dict[str, Span]:
        """Return a trace's spans once some of these names and services came, with all that they are under.

        Each service sends its own when it likes: a span may come long before the one that it is under.
        """
        wanted = Counter(names)

        def there() -> bool:
            spans = self.of_trace(trace_id)
            above = {span.parent_span_id.hex() for span in spans.values()}
            named = wanted <= Counter(span.name for span in spans.values())
            return named and services <= {self.services[own] for own in spans} and above - spans.keys() <= {CALLER}

        with self._changed:
            come = self._changed.wait_for(there, timeout=300)
            spans = self.of_trace(trace_id)
        assert come, Counter(span.name for span in spans.values())
        return spans


@contextmanager
def collecting() -> Iterator[tuple[Collector, str]]:
    collector = Collector()
    port = collector.server.add_insecure_port("127.0.0.1:0")
    collector.server.start()
    yield collector, f"http://127.0.0.1:{port}"
    collector.server.stop(None).wait()


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, Collector]]:
    with collecting() as (collector, endpoint):
        services = ("GATEWAY", "SCHEDULER", "STORAGE", "QPU_BROKER", "WORKER")
        logs = {f"QONDUIT_{service}_LOG_FORMAT": "json" for service in services}
        # The standard's variable is for all services; so are those of its batches: here each span goes soon.
        sending = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_BSP_SCHEDULE_DELAY": "100"}
        stack = Stack(tmp_path_factory.mktemp("traced"), environment=logs | sending)
        stack.up()
        yield stack, collector
        stack.down()


def test_a_job_is_one_trace_under_its_callers_span(
    traced: tuple[Stack, Collector], submit_to: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    stack, collector = traced
    monkeypatch.setenv("TRACEPARENT", f"00-{TRACE}-{CALLER}-01")
    job = submit_to(stack.client(), PROGRAM)
    assert job.result(timeout=300) == {"squares": [0, 1, 4]}
    run = "qonduit_api.v1.JobService/Run"
    work = (*["stage MAPPING"] * 2, "stage EXECUTING_QPU", *["task square"] * 3, "task fail", "running", "executor")
    qpu = ("QPU job", "waiting for QPU", "executing on QPU")
    services = frozenset({"gateway", "storage", "qpu_broker", "worker"})
    spans = collector.wait_for(TRACE, run, "queued", "job", "attempt 1", *work, *qpu, services=services)

    def one(name: str) -> Span:
        (span,) = [span for span in spans.values() if span.name == name]
        return span

    def path(span: Span) -> list[str]:
        above = spans.get(span.parent_span_id.hex())
        return [span.name, *(path(above) if above is not None else [span.parent_span_id.hex()])]

    assert path(one("queued")) == ["queued", "job", run, CALLER]
    stages = [path(span) for span in spans.values() if span.name == "stage MAPPING"]
    assert stages == [["stage MAPPING", "attempt 1", "job", run, CALLER]] * 2, "before and after the QPU job"
    assert path(one("task fail")) == ["task fail", "attempt 1", "job", run, CALLER]
    assert path(one("executing on QPU")) == ["executing on QPU", "QPU job", "attempt 1", "job", run, CALLER]
    assert sum(span.name == "task square" for span in spans.values()) == 3
    assert {collector.services[own] for own in spans} == services
    orphans = [path(span) for span in spans.values() if path(span)[-1] != CALLER]
    assert not orphans
    assert "as it should" in one("task fail").status.message
    assert one("job").start_time_unix_nano <= one("attempt 1").start_time_unix_nano <= one("job").end_time_unix_nano


def test_log_lines_of_a_job_name_it_and_its_trace(
    traced: tuple[Stack, Collector], submit_to: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    stack, _ = traced
    trace = TRACE[::-1]
    monkeypatch.setenv("TRACEPARENT", f"00-{trace}-{CALLER}-01")
    job = submit_to(stack.client(), "print('hello')")
    job.result(timeout=300)
    line = stack.logged("worker", lambda line: line["event"] == "driver_ended" and line["job"] == job.job_id)
    assert (line["attempt"], line["trace_id"]) == (1, trace)


def test_a_trace_that_is_not_sampled_leaves_no_spans(
    traced: tuple[Stack, Collector], submit_to: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    stack, collector = traced
    unwanted, wanted = "f" * 32, "e" * 32
    for trace, flags in ((unwanted, "00"), (wanted, "01")):
        monkeypatch.setenv("TRACEPARENT", f"00-{trace}-{CALLER}-{flags}")
        submit_to(stack.client(), "print('hello')").result(timeout=300)
    collector.wait_for(wanted, "job", "attempt 1")
    assert not collector.of_trace(unwanted)


def test_a_collector_that_is_away_harms_no_job(
    traced: tuple[Stack, Collector], submit_to: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    stack, collector = traced
    collector.server.stop(None).wait()
    monkeypatch.setenv("TRACEPARENT", f"00-{TRACE}-{CALLER}-01")
    job = submit_to(stack.client(), "print('hello')")
    job.result(timeout=300)
    assert job.status() == "DONE"
