"""What operators would refuse is found: each field of our own resources misspelt, of another type, or left out."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
from kustomized import MANIFESTS, Document, build
from manifest_schemas import RABBITMQ, problems_of_each
from operator_schemas import SCHEMAS

if TYPE_CHECKING:
    from collections.abc import Iterator

Path: TypeAlias = tuple[str | int, ...]
KINDS = [kind for _, kind in (*SCHEMAS, RABBITMQ)]
FREE = {"matchLabels", "labels", "params", "parameters"}
"""Maps whose keys are ours to choose."""
NEEDED = {
    "Cluster": ("spec", "spec.instances", "spec.postgresql.synchronous.method", "spec.postgresql.synchronous.number"),
    "ScaledObject": (
        "spec",
        "spec.scaleTargetRef",
        "spec.scaleTargetRef.name",
        "spec.triggers",
        "spec.triggers.0.type",
        "spec.triggers.1.metadata",
        "spec.fallback.replicas",
        "spec.fallback.failureThreshold",
        "spec.advanced.horizontalPodAutoscalerConfig.behavior.scaleUp.policies.0.value",
    ),
    "PodMonitor": ("spec", "spec.selector"),
    "RabbitmqCluster": (
        "spec",
        "spec.replicas",
        "spec.persistence",
        "spec.persistence.storage",
        "spec.resources",
        "spec.override.statefulSet.spec.template.spec.containers",
        "spec.override.statefulSet.spec.template.spec.topologySpreadConstraints.0.maxSkew",
    ),
}
VALUES: dict[str, dict[str, Any]] = {
    "Cluster": {
        "spec.instances": 0,
        "spec.postgresql.synchronous.method": "all",
        "spec.postgresql.synchronous.dataDurability": "prefered",
        "spec.affinity.podAntiAffinityType": 1,
        "spec.resources.limits.memory": "2 GB",
    },
    "ScaledObject": {
        "spec.fallback.behavior": "currentReplica",
        "spec.maxReplicaCount": "10",
        "spec.triggers.0.metadata.threshold": 4,
        "spec.triggers.0.metricType": 7,
    },
    "PodMonitor": {
        "spec.podMetricsEndpoints.0.interval": "15 seconds",
        "spec.podMetricsEndpoints.0.metricRelabelings": [{"action": "keeps"}],
    },
    "RabbitmqCluster": {
        "spec.replicas": "3",
        "spec.persistence.storage": "20 GB",
        "spec.resources.limits": {"memory": ["2Gi"]},
        "spec.rabbitmq.additionalConfig": "x" * 2001,
        "spec.override.statefulSet.spec.template.spec.topologySpreadConstraints.0.maxSkew": "one",
    },
}


@pytest.fixture(params=KINDS)
def documents(request: pytest.FixtureRequest) -> list[Document]:
    return [each for each in build(MANIFESTS / "overlays" / "large") if each["kind"] == request.param]


def _fields(value: Any, path: Path = ()) -> Iterator[Path]:
    """Every field, with those of what it holds, but for the two that say which schema is meant."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in inside:
        here = (*path, key)
        if isinstance(key, str) and here not in {("apiVersion",), ("kind",)}:
            yield here
        yield from _fields(inner, here)


def _changed(document: Document, path: Path) -> tuple[Document, Any, Any]:
    """Return a copy, and where in it the path leads: what holds the last step, and that step."""
    made = copy.deepcopy(document)
    place: Any = made
    for step in path[:-1]:
        place = place[step]
    return made, place, path[-1]


def _path(text: str) -> Path:
    return tuple(int(step) if step.isdigit() else step for step in text.split("."))


def _is_free(path: Path) -> bool:
    """A trigger's metadata are its scaler's to know: test_scaling looks at them."""
    holder = path[-2:-1]
    return holder in {(name,) for name in FREE} or (holder == ("metadata",) and "triggers" in path)


def _unfound(changed: dict[Path, Document], expected: dict[Path, str]) -> dict[Path, list[str]]:
    found = dict(zip(changed, problems_of_each(list(changed.values())), strict=True))
    return {path: problems for path, problems in found.items() if not any(expected[path] in each for each in problems)}


def test_each_misspelt_field_is_found(documents: list[Document]) -> None:
    for document in documents:
        changed: dict[Path, Document] = {}
        for path in _fields(document):
            if not _is_free(path):
                made, place, last = _changed(document, path)
                place[f"{last}z"] = place.pop(last)
                changed[path] = made
        assert len(changed) > 5
        assert _unfound(changed, {path: str(path[-1]) for path in changed}) == {}


def test_each_field_of_another_type_is_found(documents: list[Document]) -> None:
    for document in documents:
        changed: dict[Path, Document] = {}
        for path in _fields(document):
            made, place, last = _changed(document, path)
            place[last] = True if isinstance(place[last], dict | list) else {"of": "another type"}
            changed[path] = made
        assert _unfound(changed, {path: str(path[-1]) for path in changed}) == {}


def test_each_missing_field_is_found(documents: list[Document]) -> None:
    for document in documents:
        changed: dict[Path, Document] = {}
        for path in map(_path, NEEDED[document["kind"]]):
            made, place, last = _changed(document, path)
            del place[last]
            changed[path] = made
        assert _unfound(changed, {path: str(path[-1]) for path in changed}) == {}


def test_each_value_that_cannot_be_is_found(documents: list[Document]) -> None:
    document = documents[0]
    changed: dict[Path, Document] = {}
    for text, value in VALUES[document["kind"]].items():
        made, place, last = _changed(document, _path(text))
        place[last] = value
        changed[_path(text)] = made
    assert _unfound(changed, {path: str(path[-1]) for path in changed}) == {}


def test_a_kind_that_nobody_knows_is_found() -> None:
    unknown = {"apiVersion": "rabbitmq.com/v1beta1", "kind": "Queue", "metadata": {"name": "x"}, "spec": {}}
    assert problems_of_each([unknown]) == [["no such resource in Kubernetes 1.33"]]
