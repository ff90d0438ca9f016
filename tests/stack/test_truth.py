"""What the kernel, the program, the job's usage, the database and the metrics say is one and the same, within 5%."""

from __future__ import annotations

import sqlite3
import urllib.request
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families
from qonduit import Configuration
from stack_control import Stack, charged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qonduit import Job

PROGRAM = """\
import time
from qiskit import QuantumCircuit
from qiskit.transpiler import generate_preset_pass_manager
from qiskit_ibm_runtime import QiskitRuntimeService, SamplerV2
from qiskit_serverless import Job, distribute_task, get, save_result, update_status

def burn(seconds):
    begin = time.process_time()
    while time.process_time() - begin < seconds:
        sum(range(1000))

@distribute_task(target={"cpu": 1})
def burn_elsewhere(seconds):
    begin = time.process_time()
    burn(seconds)
    return time.process_time() - begin

told, spent = time.process_time(), {}

def over(stage):
    global told
    now = time.process_time()
    spent[stage], told = spent.get(stage, 0.0) + now - told, now

circuit = QuantumCircuit(1)
circuit.x(0)
circuit.measure_all()
backend = QiskitRuntimeService().backend("ibm_torino")
isa_circuit = generate_preset_pass_manager(optimization_level=0, backend=backend).run(circuit)
burn(1.0)
over("NONE")
update_status(Job.MAPPING)
burn(2.0)
over("MAPPING")
update_status(Job.OPTIMIZING_HARDWARE)
references = [burn_elsewhere(2.0) for _ in range(2)]
burn(1.0)
tasks = get(references)
over("OPTIMIZING_FOR_HARDWARE")
spent["OPTIMIZING_FOR_HARDWARE"] += sum(tasks)
qpu_job = SamplerV2(mode=backend).run([isa_circuit], shots=20_000)
while not qpu_job.done():
    burn(0.2)
burn(1.5 - (time.process_time() - told))
over("QPU and after")
update_status(Job.POST_PROCESSING)
burn(2.0)
over("POST_PROCESSING")
save_result({"cpu": spent, "qpu": qpu_job.usage()})
"""
WITHIN = 0.05


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    # Each has room for one of the two tasks, also while the driver waits and lends its cpu.
    stack = Stack(
        tmp_path_factory.mktemp("two-workers"), options=("--workers", "2"), environment={"QONDUIT_WORKER_CPU": "1.9"}
    )
    stack.up()
    yield stack
    stack.down()


def counted(stack: Stack, name: str, label: str) -> Counter[str]:
    """Sum a counter over all services, by one of its labels."""
    sums: Counter[str] = Counter()
    for service in stack.services.values():
        if "metrics_port" not in service["ports"]:
            continue
        url = f"http://127.0.0.1:{service['ports']['metrics_port']}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
        for sample in (sample for family in families for sample in family.samples if sample.name == name):
            sums[sample.labels[label]] += sample.value
    return sums


def in_database(stack: Stack, job_id: str) -> tuple[dict[str, float], float]:
    """Return a job's CPU seconds by stage and its QPU seconds, as the gateway's tables have them."""
    path = next(stack.data_dir.glob("**/gateway.db"))
    with closing(sqlite3.connect(path)) as database:
        usage = dict(database.execute("SELECT stage, SUM(cpu_s) FROM job_usage WHERE job_id = ? GROUP BY 1", (job_id,)))
        charges = "SELECT COALESCE(SUM(qpu_s), 0) FROM qpu_charges WHERE job_id = ?"
        (qpu_s,) = database.execute(charges, (job_id,)).fetchone()
    return usage, qpu_s


def grouped(by_stage: dict[str, float]) -> dict[str, float]:
    """Put together what the program cannot tell apart: it does not know when its stage is a QPU's."""
    known = {"NONE", "MAPPING", "POST_PROCESSING"}
    sums = {stage: seconds for stage, seconds in by_stage.items() if stage in known}
    return sums | {"the rest": sum(seconds for stage, seconds in by_stage.items() if stage not in known)}


def test_all_who_count_agree(two_workers: Stack, submit_to: Callable[..., Job]) -> None:
    stack = two_workers
    live, ended = "qonduit_worker_stage_cpu_seconds_total", "qonduit_job_stage_cpu_seconds_total"
    before = {name: counted(stack, name, "stage") for name in (live, ended)}
    qpu_before = counted(stack, "qonduit_qpu_seconds_total", "backend")["ibm_torino"]
    job = submit_to(stack.client(), PROGRAM, Configuration(cpu=0.9))
    result = job.result(timeout=100)
    assert len({task.worker for task in job.tasks()}) == 2

    kernel, qpu_s = grouped(result["cpu"]), result["qpu"]
    charged(job, qpu_s)
    usage = {stage.status.partition(": ")[2] or "NONE": stage.cpu_s for stage in job.usage().stages}
    stored, stored_qpu_s = in_database(stack, job.job_id)
    scraped = {name: counted(stack, name, "stage") - before[name] for name in (live, ended)}
    assert stored == pytest.approx(usage)
    assert dict(scraped[ended]) == pytest.approx({stage: s for stage, s in usage.items() if s}, rel=WITHIN)
    assert grouped(usage) == pytest.approx(kernel, rel=WITHIN)
    assert grouped(scraped[live]) == pytest.approx(kernel, rel=WITHIN)
    scraped_qpu_s = counted(stack, "qonduit_qpu_seconds_total", "backend")["ibm_torino"] - qpu_before
    assert (job.usage().total.qpu_s, stored_qpu_s, scraped_qpu_s) == pytest.approx((qpu_s,) * 3, rel=WITHIN)
    assert qpu_s > 0
