"""Whether manifests are what the API server accepts: Kubernetes' own schemas, offline, with no unknown field."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Final

import kubernetes_validate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kustomized import Document

KUBERNETES: Final = "1.33"
"""The oldest with user namespaces and unmasked /proc switched on; later ones only add."""
CUSTOM: Final = frozenset(
    {
        ("rabbitmq.com/v1beta1", "RabbitmqCluster"),
        ("postgresql.cnpg.io/v1", "Cluster"),
        ("keda.sh/v1alpha1", "ScaledObject"),
        ("monitoring.coreos.com/v1", "PodMonitor"),
    }
)
"""Resources of operators. No package brings their schemas, so only their shape as a resource is looked at."""


def schema_problems(documents: Sequence[Document]) -> Iterator[str]:
    """Say what Kubernetes would refuse."""
    for each in documents:
        if (each["apiVersion"], each["kind"]) in CUSTOM:
            continue
        problem = _problem(json.dumps(each, sort_keys=True))
        if problem:
            yield f"{each['kind']} {each['metadata']['name']}: {problem}"
    for each in documents:
        if each["kind"] == "RabbitmqCluster":
            pod = each["spec"]["override"]["statefulSet"]["spec"]["template"]["spec"]
            laid_over = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "override"}, "spec": pod}
            yield from schema_problems([laid_over])


@cache
def _problem(document: str) -> str:
    try:
        kubernetes_validate.validate(json.loads(document), KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return f"{'.'.join(str(step) for step in error.path)}: {error.message}"
    except kubernetes_validate.SchemaNotFoundError:
        return f"no such resource in Kubernetes {KUBERNETES}"
    return ""
