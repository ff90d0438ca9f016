"""On Kubernetes Prometheus calls all as in containers: rules and dashboards hold there, too."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
import yaml
from kustomized import MANIFESTS, Document, build, write_overlay
from manifest_pods import workloads

if TYPE_CHECKING:
    from pathlib import Path

IN_CONTAINERS = MANIFESTS.parent / "prometheus" / "prometheus.yaml"


@pytest.fixture
def targets(tmp_path: Path) -> list[tuple[str, str, str, str]]:
    """Return each target: its job, and the pods, port and path that it is at."""
    write_overlay(tmp_path, "overlays/small", ["pod-monitors"])
    documents = build(tmp_path)
    pods = [(each.namespace, each.labels) for each in workloads(documents)]
    (rabbitmq,) = [each["metadata"] for each in documents if each["kind"] == "RabbitmqCluster"]
    pods.append((rabbitmq["namespace"], {"app.kubernetes.io/name": rabbitmq["name"]}))
    return [
        (
            _job(endpoint, labels[each["spec"]["jobLabel"]]),
            str(labels),
            endpoint["port"],
            endpoint.get("path", "/metrics"),
        )
        for each in documents
        if each["kind"] == "PodMonitor"
        for namespace, labels in pods
        if namespace == each["metadata"]["namespace"]
        and each["spec"]["selector"]["matchLabels"].items() <= labels.items()
        for endpoint in each["spec"]["podMetricsEndpoints"]
    ]


def _job(endpoint: Document, by_label: str) -> str:
    given = [each["replacement"] for each in endpoint.get("relabelings", []) if each["targetLabel"] == "job"]
    return str(given[0]) if given else by_label


def test_jobs_are_called_as_in_containers(targets: list[tuple[str, str, str, str]]) -> None:
    scraped = {
        (each["job_name"], each.get("metrics_path", "/metrics"))
        for each in yaml.safe_load(IN_CONTAINERS.read_text())["scrape_configs"]
    }
    assert {(job, path) for job, _, _, path in targets} == scraped


def test_no_two_targets_have_the_same_labels(targets: list[tuple[str, str, str, str]]) -> None:
    # `job` and `instance`, which is the pod's address and port, are all that tells them apart.
    assert [
        key for key, count in Counter((job, pods, port) for job, pods, port, _ in targets).items() if count > 1
    ] == []
