"""What a job is said to have used is what it used."""

from __future__ import annotations

import time
import urllib.request
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families
from stack_control import CHARGE_TIMEOUT_S, charged

if TYPE_CHECKING:
    from collections.abc import Callable

    from qonduit import Job
    from stack_control import Stack

BURN = """\
import time
from qiskit_serverless import Job, distribute_task, get, save_result, update_status

def burn(seconds):
    start = time.process_time()
    while time.process_time() - start < seconds:
        sum(range(1000))

@distribute_task(target={"cpu": 1})
def burn_elsewhere(seconds):
    burn(seconds)
    return time.process_time()  # With what it took to start this process.

update_status(Job.MAPPING)
begin = time.process_time()
burn(2.0)
mapping = time.process_time() - begin
update_status(Job.OPTIMIZING_HARDWARE)
begin = time.process_time()
references = [burn_elsewhere(1.5), burn_elsewhere(1.5)]
burn(1.0)
elsewhere = get(references)
optimizing = time.process_time() - begin
update_status(Job.POST_PROCESSING)
save_result({"mapping": mapping, "optimizing": optimizing, "elsewhere": elsewhere})
"""


def metrics(stack: Stack, service: str) -> str:
    """Return what a service's /metrics says."""
    with urllib.request.urlopen(stack.metrics_url(service), timeout=60) as answer:  # noqa: S310 - Our own service.
        text: str = answer.read().decode()
    return text


def total(stack: Stack, service: str, name: str, **labels: str) -> float:
    """Sum a counter's samples that carry these labels."""
    return sum(
        sample.value
        for family in text_string_to_metric_families(metrics(stack, service))
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def risen_to(least: float, stack: Stack, service: str, name: str, **labels: str) -> float:
    """Return what `total` does, once it is so much: a counter may rise a moment after others know what it counts."""
    deadline = time.monotonic() + CHARGE_TIMEOUT_S
    while (found := total(stack, service, name, **labels)) < least:
        assert time.monotonic() < deadline, f"{name} is {found}, not {least}"
        time.sleep(0.05)
    return found


def stage_cpu_seconds(stack: Stack, stage: str) -> float:
    return total(stack, "worker", "qonduit_worker_stage_cpu_seconds_total", stage=stage)


def test_cpu_seconds_per_stage_are_what_was_burned(stack: Stack, submit: Callable[..., Job]) -> None:
    stages = ("MAPPING", "OPTIMIZING_FOR_HARDWARE")
    before = [stage_cpu_seconds(stack, stage) for stage in stages]
    job = submit(BURN)
    burned = job.result(timeout=300)
    usage = {stage.status: stage.cpu_s for stage in job.usage().stages}
    assert usage["RUNNING: MAPPING"] == pytest.approx(burned["mapping"], rel=0.1)
    least, most = (burned["optimizing"] + by_tasks for by_tasks in (3.0, sum(burned["elsewhere"])))
    assert 0.95 * least <= usage["RUNNING: OPTIMIZING_FOR_HARDWARE"] <= 1.1 * most
    assert job.usage().total.cpu_s == pytest.approx(sum(usage.values()))
    counted = [stage_cpu_seconds(stack, s) - b for s, b in zip(stages, before, strict=True)]
    assert counted == pytest.approx([usage[f"RUNNING: {stage}"] for stage in stages], rel=0.01)


SAMPLE = """\
from qiskit import QuantumCircuit
from qiskit.transpiler import generate_preset_pass_manager
from qiskit_ibm_runtime import QiskitRuntimeService, SamplerV2
from qiskit_serverless import save_result

circuit = QuantumCircuit(1)
circuit.x(0)
circuit.measure_all()
backend = QiskitRuntimeService().backend("ibm_torino")
isa_circuit = generate_preset_pass_manager(optimization_level=0, backend=backend).run(circuit)
jobs = [SamplerV2(mode=backend).run([isa_circuit], shots=shots) for shots in (2000, 6000)]
for job in jobs:
    job.result()
save_result({"seconds": [job.usage() for job in jobs]})
"""


def test_qpu_seconds_are_what_the_device_charged(stack: Stack, submit: Callable[..., Job]) -> None:
    before = total(stack, "qpu_broker", "qonduit_qpu_seconds_total", backend="ibm_torino")
    job = submit(SAMPLE)
    first, second = job.result(timeout=300)["seconds"]
    assert second == pytest.approx(3 * first, rel=0.01)
    assert first > 0
    usage = charged(job, first + second)
    assert usage["RUNNING: EXECUTING_QPU"] == pytest.approx(first + second, rel=0.01)
    assert sum(usage.values()) == usage["RUNNING: EXECUTING_QPU"]
    least = 0.99 * (first + second)
    after = risen_to(before + least, stack, "qpu_broker", "qonduit_qpu_seconds_total", backend="ibm_torino")
    assert after - before == pytest.approx(first + second, rel=0.01)
    # Jobs of other tests count too.
    risen_to(least, stack, "gateway", "qonduit_job_stage_qpu_seconds_total", stage="EXECUTING_QPU")


def test_wall_seconds_of_the_stages_are_the_job(submit: Callable[..., Job]) -> None:
    start = time.monotonic()
    job = submit(BURN.replace("2.0", "0.2").replace("1.5", "0.1").replace("1.0", "0.1"))
    job.result(timeout=300)
    took = time.monotonic() - start
    assert 0.2 < job.usage().total.wall_s <= took + 0.1


@pytest.mark.parametrize("service", ["gateway", "scheduler", "storage", "qpu_broker", "worker"])
def test_every_service_serves_metrics(stack: Stack, service: str) -> None:
    text = metrics(stack, service)
    assert "qonduit_build_info" in text
    assert text.count("# HELP qonduit_") > 3
