"""Workers are scaled by numbers that exist, and services that may run once run once."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
import yaml
from kustomized import MANIFESTS, Document, build
from manifest_pods import environment, workloads
from prometheus_client import CollectorRegistry
from qonduit_scheduler.metrics import SchedulerMetrics

if TYPE_CHECKING:
    from pathlib import Path

METRICS = ("qonduit_scheduler_allocated", "qonduit_scheduler_leader", "qonduit_scheduler_waiting_resources")


@pytest.fixture(params=["small", "large"], scope="module")
def documents(request: pytest.FixtureRequest) -> list[Document]:
    return build(MANIFESTS / "overlays" / str(request.param))


def _scaled_object(documents: list[Document]) -> Document:
    (found,) = [each for each in documents if each["kind"] == "ScaledObject"]
    return found


def _queries(documents: list[Document]) -> list[str]:
    return [trigger["metadata"]["query"] for trigger in _scaled_object(documents)["spec"]["triggers"]]


def test_the_target_is_the_workers_deployment_which_sets_no_replicas(documents: list[Document]) -> None:
    scaled = _scaled_object(documents)
    target = scaled["spec"]["scaleTargetRef"]
    (worker,) = [
        each
        for each in documents
        if (each["apiVersion"], each["kind"], each["metadata"]["name"])
        == (target["apiVersion"], target["kind"], target["name"])
    ]
    assert worker["metadata"]["namespace"] == scaled["metadata"]["namespace"]
    assert "replicas" not in worker["spec"]


def test_thresholds_are_what_one_worker_offers(documents: list[Document]) -> None:
    (worker,) = [each for each in workloads(documents) if each.name == "worker"]
    offered = environment(worker, documents)
    thresholds = [trigger["metadata"]["threshold"] for trigger in _scaled_object(documents)["spec"]["triggers"]]
    assert thresholds == [offered["QONDUIT_WORKER_CPU"], offered["QONDUIT_WORKER_MEM"]]


def test_what_a_trigger_tells_its_scaler_is_what_the_scaler_reads(documents: list[Document]) -> None:
    # KEDA's schema takes any name here, and its scaler ignores what it does not know.
    for trigger in _scaled_object(documents)["spec"]["triggers"]:
        assert trigger["type"] == "prometheus"
        assert trigger["metadata"].keys() == {"serverAddress", "threshold", "ignoreNullValues", "query"}


def test_queries_name_these_metrics_alone(documents: list[Document]) -> None:
    assert {name for query in _queries(documents) for name in re.findall(r"qonduit_\w+", query)} == set(METRICS)


@pytest.mark.parametrize("name", METRICS)
def test_the_scheduler_has_this_metric(name: str) -> None:
    registry = CollectorRegistry()
    SchedulerMetrics(registry)
    assert name in {family.name for family in registry.collect()}


def _rules(folder: Path, text: str) -> str:
    path = folder / "rules.yaml"
    path.write_text(text)
    return str(path)


def test_a_query_counts_the_leader_alone(documents: list[Document], tmp_path: Path) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("there is no promtool here")
    series = {
        'allocated{resource="cpu",job="qonduit",instance="a"}': 80,
        'waiting_resources{resource="cpu",job="qonduit",instance="a"}': 40,
        'leader{job="qonduit",instance="a"}': 1,
        'allocated{resource="cpu",job="qonduit",instance="b"}': 700,
        'waiting_resources{resource="cpu",job="qonduit",instance="b"}': 7,
        'leader{job="qonduit",instance="b"}': 0,
        'allocated{resource="memory",job="qonduit",instance="a"}': 3,
        'waiting_resources{resource="memory",job="qonduit",instance="a"}': 2,
    }
    tests = {
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": f"qonduit_scheduler_{name}", "values": f"{value} {value}"}
                    for name, value in series.items()
                ],
                "promql_expr_test": [
                    {"expr": query, "eval_time": "1m", "exp_samples": [{"labels": "{}", "value": value}]}
                    for query, value in zip(_queries(documents), (120, 5), strict=True)
                ],
            }
        ]
    }
    command = ["promtool", "test", "rules", _rules(tmp_path, yaml.safe_dump(tests))]
    ran = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_what_owns_something_runs_once(documents: list[Document]) -> None:
    replicas = {each.name: each.document["spec"].get("replicas") for each in workloads(documents)}
    assert replicas == {"gateway": 1, "storage": 1, "qpu-broker": 1, "scheduler": 2, "worker": None}
    (gateway,) = [each.document for each in workloads(documents) if each.name == "gateway"]
    assert gateway["spec"]["strategy"] == {"type": "Recreate"}


def test_a_worker_has_time_to_end_its_work_and_then_to_stop(documents: list[Document]) -> None:
    (worker,) = [each for each in workloads(documents) if each.name == "worker"]
    *command, seconds = worker.container["lifecycle"]["preStop"]["exec"]["command"]
    assert command == ["python", "-m", "qonduit_worker", "drain"]
    assert worker.pod["terminationGracePeriodSeconds"] >= int(seconds) + 60
