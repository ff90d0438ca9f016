"""What our RabbitmqCluster may hold: the fields that we use, with the types and bounds of its operator's definition.

No index of packages has that definition itself. What the override has of a pod, which must name `containers`, is
checked as Kubernetes' own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

if TYPE_CHECKING:
    from kustomized import Document


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=to_camel)


class _Metadata(_Shape):
    name: str
    namespace: str


class _Persistence(_Shape):
    storage: Annotated[str, Field(pattern=r"^[1-9][0-9]*[MGT]i$")]


class _Server(_Shape):
    additional_config: Annotated[str, Field(max_length=2000)]


class _Template(_Shape):
    spec: dict[str, Any]


class _StatefulSetSpec(_Shape):
    template: _Template


class _StatefulSet(_Shape):
    spec: _StatefulSetSpec


class _Override(_Shape):
    stateful_set: _StatefulSet


class _Spec(_Shape):
    replicas: Annotated[int, Field(ge=1)]
    persistence: _Persistence
    resources: dict[str, Any]
    rabbitmq: _Server
    override: _Override


class _RabbitmqCluster(_Shape):
    api_version: str
    kind: str
    metadata: _Metadata
    spec: _Spec


def shape_problems(document: Document) -> list[str]:
    """Say what is wrong with a RabbitmqCluster, but for what it holds of Kubernetes' own."""
    try:
        _RabbitmqCluster(**document)
    except ValidationError as error:
        return [f"{'.'.join(str(step) for step in each['loc'])}: {each['msg']}" for each in error.errors()]
    return []


def pods(document: Document) -> list[Document]:
    """Return what it holds of pods: its override of a pod, and its container's resources."""
    spec = document["spec"]
    server = {"name": "rabbitmq", "image": "rabbitmq", "resources": spec["resources"]}
    held = (spec["override"]["statefulSet"]["spec"]["template"]["spec"], {"containers": [server]})
    return [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "rabbitmq"}, "spec": each} for each in held]
