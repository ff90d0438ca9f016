"""The values a function consists of."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from qonduit_gateway.providers.access import Place

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
class FunctionName:
    """Names a function: its title, and whose it is, a user's or a provider's."""

    title: str
    owner: str = ""
    provider: str = ""

    @classmethod
    def of(cls, user: str, text: str) -> FunctionName:
        """Return what a user means by a text: "provider/title", or the title of a function of their own."""
        provider, slash, title = text.partition("/")
        return cls(title, provider=provider) if slash and provider else cls(text, owner=user)

    @property
    def place(self) -> Place:
        """Where grants hold for it, if it is a provider's."""
        return Place(self.provider, self.title)

    def __str__(self) -> str:
        return f"{self.provider}/{self.title}" if self.provider else self.title


@dataclass(frozen=True, slots=True)
class FunctionVersion:
    """One version of a function; immutable, and named by the digest of its content."""

    version_id: int
    """Its number in the database."""
    name: FunctionName
    spec: FunctionSpec
    version: str
    artifact_digest: str
    artifact_bytes: int
    created_at: float
    aliases: tuple[str, ...] = ()
    """What stands for it, "latest" included, by name."""
    disabled_text: str = ""
    """Why its function accepts no jobs; empty when it does."""


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
