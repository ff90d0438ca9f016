"""What the kernel, the program, the job's usage, the database and Prometheus say is one and the same, within 5%."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from qonduit import Configuration, QiskitFunction
from stack_control import charged

if TYPE_CHECKING:
    from pathlib import Path

    from observed_stack import Observed

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

@distribute_task(target={"cpu": 1.2})
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
backend = QiskitRuntimeService().backend("simulated_ibm_torino")
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
LIVE = "qonduit_worker_stage_cpu_seconds_total"
ENDED = "qonduit_job_stage_cpu_seconds_total"
QPU = 'qonduit_qpu_seconds_total{backend="simulated_ibm_torino"}'


def counted(observed: Observed, name: str, label: str) -> dict[str, float]:
    """Ask Prometheus for a counter, summed over all services, by one of its labels."""
    # Read after this moment, whatever was read before.
    observed.wait_for(f"min(timestamp(up)) > {time.time()}")
    series = observed.prometheus.now(f"sum by ({label}) ({name})")
    return {one.labels[label]: one.points[0][1] for one in series}


def rise(after: dict[str, float], before: dict[str, float]) -> dict[str, float]:
    """Return by how much each part rose, without those that did not."""
    return {part: value - before.get(part, 0.0) for part, value in after.items() if value > before.get(part, 0.0)}


def in_database(observed: Observed, job_id: str) -> tuple[dict[str, float], float]:
    """Return a job's CPU seconds by stage and its QPU seconds, as the gateway's tables have them."""
    path = observed.stack.data_dir / "gateway" / "gateway.db"
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


def test_all_who_count_agree(observed: Observed, tmp_path: Path) -> None:
    before = {name: counted(observed, name, "stage") for name in (LIVE, ENDED)}
    qpu_before = counted(observed, QPU, "backend")
    (tmp_path / "program.py").write_text(PROGRAM)
    with observed.stack.client() as client:
        function = QiskitFunction(title="truth", entrypoint="program.py", working_dir=str(tmp_path))
        # The two tasks fit on one worker in no way: each takes more than half of what is there, driver or not.
        job = client.upload(function).run(config=Configuration(cpu=0.9))
        result = job.result(timeout=100)
        assert len({task.worker for task in job.tasks()}) == 2
        charged(job, result["qpu"])
        usage = {stage.status.partition(": ")[2] or "NONE": stage.cpu_s for stage in job.usage().stages}
        total_qpu_s = job.usage().total.qpu_s

    kernel, qpu_s = grouped(result["cpu"]), result["qpu"]
    stored, stored_qpu_s = in_database(observed, job.job_id)
    live, ended = (rise(counted(observed, name, "stage"), before[name]) for name in (LIVE, ENDED))
    assert stored == pytest.approx(usage)
    assert ended == pytest.approx({stage: s for stage, s in usage.items() if s}, rel=WITHIN)
    assert grouped(usage) == pytest.approx(kernel, rel=WITHIN)
    assert grouped(live) == pytest.approx(kernel, rel=WITHIN)
    (scraped_qpu_s,) = rise(counted(observed, QPU, "backend"), qpu_before).values()
    assert (total_qpu_s, stored_qpu_s, scraped_qpu_s) == pytest.approx((qpu_s,) * 3, rel=WITHIN)
    assert qpu_s > 0
