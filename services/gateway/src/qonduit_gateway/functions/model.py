"""The values a function consists of."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class FunctionSpec:
    """What a function is, beside its artifact."""

    title: str
    entrypoint: str
    dependencies: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    description: str = ""
    version_label: str = ""
    arguments_schema: str = ""
    """A JSON Schema that arguments must fit; empty for none."""


@dataclass(frozen=True, slots=True)
class FunctionVersion:
    """One version of a function; immutable, and named by the digest of its content."""

    version_id: int
    """Its number in the database."""
    owner: str
    spec: FunctionSpec
    version: str
    artifact_digest: str
    artifact_bytes: int
    created_at: float
    aliases: tuple[str, ...] = ()
    """What stands for it, "latest" included, by name."""


def version_digest(spec: FunctionSpec, artifact_digest: str) -> str:
    """Return the digest that names a version: sha256 over everything a user can set."""
    content = {
        "title": spec.title,
        "entrypoint": spec.entrypoint,
        "dependencies": list(spec.dependencies),
        "environment": dict(sorted(spec.environment.items())),
        "description": spec.description,
        "version_label": spec.version_label,
        "artifact": artifact_digest,
    }
    if spec.arguments_schema:  # Added later: digests of before stand for what they did.
        content["arguments_schema"] = spec.arguments_schema
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()
