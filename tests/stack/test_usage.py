"""What a job is said to have used is what it used."""

from __future__ import annotations

import time
import urllib.request
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

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

update_status(Job.MAPPING)
burn(2.0)
update_status(Job.OPTIMIZING_HARDWARE)
references = [burn_elsewhere(1.5), burn_elsewhere(1.5)]
burn(1.0)
get(references)
update_status(Job.POST_PROCESSING)
save_result({})
"""


def metrics(stack: Stack, service: str) -> str:
    """Return what a service's /metrics says."""
    with urllib.request.urlopen(stack.metrics_url(service), timeout=10) as answer:  # noqa: S310 - Our own service.
        text: str = answer.read().decode()
    return text


def cpu_seconds_by_stage(stack: Stack) -> dict[str, float]:
    """Sum what the worker's /metrics say."""
    totals: dict[str, float] = {}
    for family in text_string_to_metric_families(metrics(stack, "worker")):
        for sample in family.samples:
            if sample.name == "qonduit_worker_stage_cpu_seconds_total":
                stage = sample.labels["stage"]
                totals[stage] = totals.get(stage, 0.0) + sample.value
    return totals


def test_cpu_seconds_per_stage_are_what_was_burned(stack: Stack, submit: Callable[..., Job]) -> None:
    before = cpu_seconds_by_stage(stack)
    job = submit(BURN)
    job.result(timeout=100)
    usage = {stage.status: stage.cpu_s for stage in job.usage().stages}
    assert usage["RUNNING: MAPPING"] == pytest.approx(2.0, rel=0.1)
    assert usage["RUNNING: OPTIMIZING_FOR_HARDWARE"] == pytest.approx(4.0, rel=0.1)
    assert job.usage().total.cpu_s == pytest.approx(6.0, rel=0.1, abs=0.4)
    after = cpu_seconds_by_stage(stack)
    assert after["MAPPING"] - before.get("MAPPING", 0.0) == pytest.approx(2.0, rel=0.1)
    burned = after["OPTIMIZING_FOR_HARDWARE"] - before.get("OPTIMIZING_FOR_HARDWARE", 0.0)
    assert burned == pytest.approx(4.0, rel=0.1)


def test_wall_seconds_of_the_stages_are_the_job(submit: Callable[..., Job]) -> None:
    start = time.monotonic()
    job = submit(BURN.replace("2.0", "0.2").replace("1.5", "0.1").replace("1.0", "0.1"))
    job.result(timeout=100)
    took = time.monotonic() - start
    assert 0.2 < job.usage().total.wall_s <= took + 0.1


@pytest.mark.parametrize("service", ["gateway", "scheduler", "storage", "qpu_broker", "worker"])
def test_every_service_serves_metrics(stack: Stack, service: str) -> None:
    text = metrics(stack, service)
    assert "qonduit_build_info" in text
    assert text.count("# HELP qonduit_") > 3
