"""Dashboards and rules against a real stack that works, and a real Prometheus: every query finds something.

And what the kernel, the program, the job's usage, the database and Prometheus say is one and the same, within 5%.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sqlite3
import subprocess
import time
import urllib.request
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from dashboards import metrics_page, stored
from dashboards.checking import faults_of_queries
from dashboards.stored import StoredQuery
from qonduit import Configuration, QiskitFunction
from stack_control import TOLD, charged, tell, until_logged

if TYPE_CHECKING:
    from pathlib import Path

    from dashboards.checking import Span
    from observed_stack import Observed

pytestmark = pytest.mark.timeout(1800)
ALL = {"worker": ".+", "backend": ".+"}
LABEL_VALUES_MAX = 100
"""Of one label of one metric: more would not be a label."""
PROGRAM = (
    TOLD
    + """\
from qiskit import QuantumCircuit
from qiskit.transpiler import generate_preset_pass_manager
from qiskit_ibm_runtime import QiskitRuntimeService, SamplerV2
from qiskit_serverless import Job, distribute_task, get, save_result, update_status
from qonduit import cancel, wait

def burn(seconds):
    begin = time.process_time()
    while time.process_time() - begin < seconds:
        sum(range(1000))

@distribute_task(target={"cpu": 1.2})
def meet():
    print("is here")
    time.sleep(600)

@distribute_task(target={"cpu": 1.2})
def burn_elsewhere(seconds):
    burn(seconds)
    return time.process_time()  # With what it took to start this process, which is billed as well.

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
meetings = [meet() for _ in range(2)]
wait(meetings, timeout=0)
while not is_told("met.tar"):  # By then each worker has an executor.
    time.sleep(0.05)
cancel(meetings)
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
)
WITHIN = 0.05
LIVE = "qonduit_worker_stage_cpu_seconds_total"
ENDED = "qonduit_job_stage_cpu_seconds_total"
QPU = 'qonduit_qpu_seconds_total{backend="simulated_ibm_torino"}'


def test_every_query_of_every_panel_finds_something(observed: Observed, span: Span) -> None:
    empty = stored.declared_empty()
    assert faults_of_queries(observed.prometheus, stored.stored_queries(), span, empty, ALL) == []


def test_a_broken_panel_is_caught(observed: Observed, span: Span) -> None:
    healthy = StoredQuery("qonduit-overview", "Jobs that wait", "A", 'sum(qonduit_jobs{state="QUEUED"})', "short")
    broken = [
        dataclasses.replace(healthy, expr='sum(qonduit_jobs{state="WAITS"})'),
        dataclasses.replace(healthy, expr='sum(qonduit_jobs{state="QUEUED"}'),
        dataclasses.replace(healthy, expr="0 / sum(qonduit_jobs_requeued_total)"),
    ]
    assert faults_of_queries(observed.prometheus, [healthy], span, {}, ALL) == []
    faults = faults_of_queries(observed.prometheus, broken, span, {}, ALL)
    assert ["finds nothing" in fault for fault in faults] == [True, False, True]
    assert "parse error" in faults[1]


def test_variables_have_values(observed: Observed) -> None:
    for path in stored.DASHBOARDS.glob("*.json"):
        for metric in stored.variables_in(json.loads(path.read_text())).values():
            assert observed.prometheus.now(metric)


def test_every_rule_works_and_no_alert_fires(observed: Observed, span: Span) -> None:
    groups = observed.prometheus.ask("rules")["groups"]
    evaluated = {rule["name"]: rule for group in groups for rule in group["rules"]}
    assert set(evaluated) == {rule.name for rule in stored.rules()}
    assert [rule.get("lastError") for rule in evaluated.values() if rule["health"] != "ok"] == []
    recorded = [
        rule.name
        for rule in stored.rules()
        if not rule.is_alert and not observed.prometheus.range(rule.name, span.start, span.end, 1)
    ]
    assert recorded == []
    assert observed.prometheus.range('ALERTS{alertstate="firing"}', span.start, span.end, 1) == []


def test_both_books_of_qpu_seconds_agree(observed: Observed) -> None:
    observed.wait_for("ledger:qonduit_qpu_seconds:increase6h > 0")
    observed.wait_for(
        "abs(ledger:qonduit_qpu_seconds:increase6h - gateway:qonduit_job_stage_qpu_seconds:increase6h) < 0.001"
    )


def test_the_page_lists_all_that_services_export(observed: Observed) -> None:
    series = observed.prometheus.ask("series", **{"match[]": '{__name__=~"qonduit_.+"}'})
    names = {labels["__name__"] for labels in series}
    found = {re.sub("_(bucket|sum|count)$", "", name) for name in names if not name.endswith("_created")}
    listed = {metric.name for metrics in metrics_page.metrics_by_service().values() for metric in metrics}
    assert found <= listed
    assert len(found) > len(listed) / 2, "nearly all have shown themselves"


def test_labels_have_few_values(observed: Observed) -> None:
    values: dict[tuple[str, str], set[str]] = {}
    for labels in observed.prometheus.ask("series", **{"match[]": '{__name__=~"qonduit_.+"}'}):
        for label, value in labels.items():
            values.setdefault((labels["__name__"], label), set()).add(value)
    assert {place: len(found) for place, found in values.items() if len(found) > LABEL_VALUES_MAX} == {}
    assert not {label for _, label in values} & {"job_id", "task", "user", "worker", "session", "function"}


def test_prometheus_own_rules_for_metrics_hold(observed: Observed, promtool: str) -> None:
    for service in observed.stack.services:
        with urllib.request.urlopen(observed.stack.metrics_url(service), timeout=60) as answer:  # noqa: S310 - Ours.
            text: bytes = answer.read()
        done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False)
        told = [line for line in done.stderr.decode().splitlines() if line.startswith("qonduit_")]
        assert (done.returncode in {0, 3}, told) == (True, []), service


def counted(observed: Observed, name: str, label: str) -> dict[str, float]:
    """Ask Prometheus for a counter, summed over all services, by one of its labels."""
    # Read after this moment, whatever was read before.
    observed.wait_for_reading(time.time())
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
        # Two tasks fit on one worker in no way, as each takes more than half of it; one fits beside the driver.
        job = client.upload(function).run(config=Configuration(cpu=0.7))
        until_logged(job, *["is here\n"] * 2)
        tell(client, tmp_path, "met.tar")
        result = job.result(timeout=300)
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
