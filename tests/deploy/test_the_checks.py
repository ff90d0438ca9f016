"""Each check finds what it is there for: one thing is made wrong in manifests that are right."""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING, Any

import pytest
from kustomized import MANIFESTS, Document, build, read, write_overlay
from manifest_pods import pod_problems
from manifest_references import reference_problems
from manifest_schemas import schema_problems
from yaml.constructor import ConstructorError

if TYPE_CHECKING:
    from pathlib import Path

CONTAINER = "spec.template.spec.containers.0"
POD = "spec.template.spec"
WRONG = {
    "a misspelt field": ("Deployment scheduler", f"{CONTAINER}.readinesProbe", {}, "readinesProbe.*unexpected"),
    "a text for a number": ("Deployment scheduler", "spec.replicas", "two", "'two' is not"),
    "a version that is gone": ("PodDisruptionBudget scheduler", "apiVersion", "policy/v1beta1", "no such resource"),
    "a field misspelt in an override": (
        "RabbitmqCluster rabbitmq",
        "spec.override.statefulSet.spec.template.spec.priorityClass",
        "qonduit-control",
        "priorityClass.*unexpected",
    ),
    "a misspelt setting": ("ConfigMap worker", "data.QONDUIT_WORKER_CPUS", "4", "QONDUIT_WORKER_CPUS is no setting"),
    "another service's setting": ("ConfigMap storage", "data.QONDUIT_WORKER_CPU", "4", "is no setting of it"),
    "a setting that cannot be": ("ConfigMap storage", "data.QONDUIT_STORAGE_LISTEN_PORT", "http", "LISTEN_PORT: INPUT"),
    "metrics on loopback": ("ConfigMap gateway", "data.QONDUIT_GATEWAY_METRICS_HOST", "127.0.0.1", "metrics are not"),
    "another port than the container's": (
        "ConfigMap storage",
        "data.QONDUIT_STORAGE_LISTEN_PORT",
        "7071",
        "does not listen",
    ),
    "a REST front on loopback": ("ConfigMap gateway", "data.QONDUIT_GATEWAY_REST_HOST", "127.0.0.1", "REST front does"),
    "data where nothing is mounted": (
        "ConfigMap storage",
        "data.QONDUIT_STORAGE_DATA_DIR",
        "/srv",
        "nothing is mounted",
    ),
    "more cpu than there is": ("ConfigMap worker", "data.QONDUIT_WORKER_CPU", "8", "leases 8.0 cpu"),
    "more memory than there is": ("ConfigMap worker", "data.QONDUIT_WORKER_MEM", "13000000000", "more than its memory"),
    "more files in memory than there is room": (
        "ConfigMap worker",
        "data.QONDUIT_WORKER_TMP_BYTES",
        "536870912",
        "shm are more than its memory",
    ),
    "a simulator without room": (
        "ConfigMap qpu-broker",
        "data.QONDUIT_QPU_BROKER_SIMULATOR_MEMORY_BYTES",
        "5368709120",
        "more than its limit",
    ),
    "no readiness": ("StatefulSet storage", f"{CONTAINER}.readinessProbe", None, "has no readinessProbe"),
    "a probe of no port": ("StatefulSet storage", f"{CONTAINER}.readinessProbe.grpc.port", 1, "asks port 1"),
    "no memory limit": ("Deployment gateway", f"{CONTAINER}.resources.limits", None, "has no memory in its limits"),
    "a root user": ("Deployment gateway", f"{POD}.securityContext.runAsUser", 0, "must not run as root"),
    "a writable image": (
        "Deployment gateway",
        f"{CONTAINER}.securityContext.readOnlyRootFilesystem",
        False,
        "write to",
    ),
    "a capability": (
        "Deployment worker",
        f"{CONTAINER}.securityContext.capabilities",
        {"drop": ["ALL"], "add": ["SYS_ADMIN"]},
        "keeps capabilities",
    ),
    "unmasked without a user namespace": ("Deployment worker", f"{POD}.hostUsers", None, "without hostUsers: false"),
    "an image without a version": ("Deployment worker", f"{CONTAINER}.image", "qonduit/worker", "its image is"),
    "an init container without probes and limits": (
        "Deployment worker",
        f"{POD}.initContainers",
        [{"name": "first", "image": "qonduit/worker:0.1.0"}],
        "worker: has no memory in its limits",
    ),
    "a token": ("Deployment worker", f"{POD}.automountServiceAccountToken", True, "token of the API server"),
    "service links": ("Deployment worker", f"{POD}.enableServiceLinks", None, "enableServiceLinks"),
    "a volume without an end": ("Deployment worker", f"{POD}.volumes.0.emptyDir", {}, "may fill the node"),
    "a config map that is not there": (
        "Deployment gateway",
        f"{CONTAINER}.envFrom.0.configMapRef.name",
        "gatway",
        "there is no ConfigMap gatway",
    ),
    "a secret that nobody makes": (
        "Deployment worker",
        f"{CONTAINER}.env.1.valueFrom.secretKeyRef.name",
        "amqp",
        "there is no Secret amqp",
    ),
    "a key that the secret has not": (
        "Deployment worker",
        f"{CONTAINER}.env.1.valueFrom.secretKeyRef.key",
        "uri",
        "qonduit-amqp has no key uri",
    ),
    "a file that the secret has not": (
        "ConfigMap gateway",
        "data.QONDUIT_GATEWAY_ADMIN_TOKEN_FILE",
        "/etc/qonduit/admin/admin_token",
        "qonduit-admin-token has no key admin_token",
    ),
    "a priority that is not there": ("Cluster database", "spec.priorityClassName", "high", "no PriorityClass high"),
    "a priority that is not there, in an override": (
        "RabbitmqCluster rabbitmq",
        "spec.override.statefulSet.spec.template.spec.priorityClassName",
        "high",
        "no PriorityClass high",
    ),
    "a service that is not there": ("StatefulSet storage", "spec.serviceName", "store", "no Service store"),
    "a spread among others": (
        "Deployment scheduler",
        f"{POD}.topologySpreadConstraints.1.labelSelector.matchLabels",
        {"app.kubernetes.io/name": "gateway"},
        "not among its own pods",
    ),
    "a resource that is none": (
        "Deployment gateway",
        f"{CONTAINER}.resources.limits",
        {"mem": 1},
        "mem is no resource",
    ),
    "an account that is not there": ("Deployment worker", f"{POD}.serviceAccountName", "x", "no ServiceAccount x"),
    "an address of nobody": (
        "ConfigMap worker",
        "data.QONDUIT_WORKER_STORAGE_ADDRESS",
        "storage:7070",
        "no port of a Service",
    ),
    "a selector of nothing": ("Service storage", "spec.selector", {"app": "store"}, "selects no pod"),
    "a port of nothing": ("Service storage", "spec.ports.0.targetPort", "grcp", "no port grcp"),
    "a mount of nothing": ("Deployment worker", f"{CONTAINER}.volumeMounts.0.name", "dat", "mounts dat"),
}


def _set(document: Document, path: str, value: Any) -> None:
    *steps, last = path.split(".")
    place: Any = document
    for step in steps:
        place = place[int(step)] if isinstance(place, list) else place[step]
    if value is None:
        del place[last]
    else:
        place[int(last) if isinstance(place, list) else last] = value


@pytest.fixture(scope="module")
def right() -> list[Document]:
    return build(MANIFESTS / "overlays" / "small")


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_wrong_manifest_is_found(wrong: tuple[str, str, Any, str], right: list[Document]) -> None:
    which, path, value, expected = wrong
    documents = copy.deepcopy(right)
    (document,) = [each for each in documents if f"{each['kind']} {each['metadata']['name']}" == which]
    _set(document, path, value)
    problems = [*schema_problems([document]), *pod_problems(documents), *reference_problems(documents)]
    assert [each for each in problems if re.search(expected, each)], problems


def test_a_patch_of_nothing_is_an_error(tmp_path: Path) -> None:
    write_overlay(tmp_path, "overlays/small", [])
    kustomization = tmp_path / "kustomization.yaml"
    kustomization.write_text(kustomization.read_text() + "patches: [{target: {kind: Job}, patch: '[]'}]\n")
    with pytest.raises(ValueError, match="no document is meant"):
        build(tmp_path)


def test_what_is_not_understood_is_an_error(tmp_path: Path) -> None:
    write_overlay(tmp_path, "overlays/small", [])
    kustomization = tmp_path / "kustomization.yaml"
    kustomization.write_text(kustomization.read_text() + "namePrefix: x-\n")
    with pytest.raises(ValueError, match="namePrefix"):
        build(tmp_path)


def test_a_key_that_comes_twice_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "twice.yaml").write_text("kind: A\nkind: B\n")
    with pytest.raises(ConstructorError, match="twice in a mapping"):
        read(tmp_path / "twice.yaml")
