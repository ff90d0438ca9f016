"""Whether manifests are what the API server accepts: Kubernetes' and operators' schemas, with no unknown field."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import kubernetes_validate
from operator_schemas import SCHEMAS, operator_problems
from rabbitmq_shape import pods, shape_problems

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kustomized import Document

KUBERNETES: Final = "1.33"
"""The oldest with user namespaces and unmasked /proc switched on; later ones only add."""
RESOURCES: Final = frozenset({"cpu", "memory", "ephemeral-storage", "storage"})
"""What has a limit or is requested. Schemas leave the names open, and Kubernetes refuses any other without a domain."""
RABBITMQ: Final = ("rabbitmq.com/v1beta1", "RabbitmqCluster")


def schema_problems(documents: Sequence[Document]) -> Iterator[str]:
    """Say what Kubernetes, or an operator, would refuse."""
    for each, problems in zip(documents, problems_of_each(documents), strict=True):
        yield from (f"{each['kind']} {each['metadata'].get('name')}: {problem}" for problem in problems)


def problems_of_each(documents: Sequence[Document]) -> list[list[str]]:
    """Return the problems of each document; one of a kind that nobody here knows has that problem."""
    by_operators = iter(operator_problems([each for each in documents if _kind(each) in SCHEMAS]))
    found = [next(by_operators) if _kind(each) in SCHEMAS else _problems(each) for each in documents]
    return [[*problems, *_resources(each)] for problems, each in zip(found, documents, strict=True)]


def _kind(document: Document) -> tuple[str, str]:
    return document["apiVersion"], document["kind"]


def _problems(document: Document) -> list[str]:
    if _kind(document) == RABBITMQ:
        found = shape_problems(document)
        return found or [problem for pod in pods(document) for problem in _problems(pod)]
    problem = _problem(json.dumps(document, sort_keys=True))
    return [problem] if problem else []


def _resources(value: Any) -> Iterator[str]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in inside:
        if key in ("limits", "requests") and isinstance(inner, dict):
            yield from (f"{key}: {name} is no resource" for name in inner if name not in RESOURCES and "/" not in name)
        yield from _resources(inner)


@cache
def _problem(document: str) -> str:
    try:
        kubernetes_validate.validate(json.loads(document), KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return f"{'.'.join(str(step) for step in error.path)}: {error.message}"
    except kubernetes_validate.SchemaNotFoundError:
        return f"no such resource in Kubernetes {KUBERNETES}"
    return ""
