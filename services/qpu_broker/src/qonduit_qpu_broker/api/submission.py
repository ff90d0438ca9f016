"""Checks of what a program posts to /jobs: only what is cheap, and only the top level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qonduit_qpu_broker.problems import BadRequest

MAX_TAGS = 8
MAX_TAG_LENGTH = 86
MAX_NAME_LENGTH = 256
MAX_COST_S = 10_800


@dataclass(frozen=True, slots=True)
class Posted:
    """The fields of a POST /jobs that the broker reads."""

    program: str
    backend: str
    session_id: str
    tags: tuple[str, ...]
    private: bool
    cost_s: int


def read_submission(document: dict[str, Any]) -> Posted:
    """Return a submission's fields; BadRequest names what is wrong."""
    if not isinstance(document.get("params"), dict):
        raise BadRequest("'params' must be an object.")
    return Posted(
        program=_text(document, "program_id", required=True),
        backend=_text(document, "backend", required=True),
        session_id=_text(document, "session_id"),
        tags=read_tags(document.get("tags")),
        private=bool(document.get("private", False)),
        cost_s=_cost(document.get("cost")),
    )


def read_tags(tags: Any) -> tuple[str, ...]:
    """Return tags; BadRequest when there are too many, or too long ones."""
    if tags is None:
        return ()
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise BadRequest("'tags' must be a list of texts.", code=1204)
    if len(tags) > MAX_TAGS:
        raise BadRequest(f"A job has at most {MAX_TAGS} tags.", code=1204)
    if any(len(tag) > MAX_TAG_LENGTH for tag in tags):
        raise BadRequest(f"A tag has at most {MAX_TAG_LENGTH} characters.", code=1205)
    if not all(_can_be_stored(tag) for tag in tags):
        raise BadRequest("A tag has a character in it that is none.", code=1204)
    return tuple(tags)


def _text(document: dict[str, Any], name: str, *, required: bool = False) -> str:
    value = document.get(name) or ""
    if not isinstance(value, str) or (required and not value) or len(value) > MAX_NAME_LENGTH:
        raise BadRequest(f"'{name}' must be a text of at most {MAX_NAME_LENGTH} characters.")
    if not _can_be_stored(value):
        raise BadRequest(f"'{name}' has a character in it that is none.")
    return value


def _can_be_stored(text: str) -> bool:
    """Whether a text is all characters: JSON can also spell halves of some, which no encoding has."""
    return text.isprintable() or not any("\ud800" <= character <= "\udfff" for character in text)


def _cost(value: Any) -> int:
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= MAX_COST_S:
        raise BadRequest(f"'cost' (the most seconds a job may take) must be between 1 and {MAX_COST_S}.")
    return value
