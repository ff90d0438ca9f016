"""What is posted to the provider: the program's own bytes, but for a few fields at the top level."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MOST_TAGS = 8
_SPACE = re.compile(r"[ \t\n\r]*")
_OURS = frozenset({"runtime", "start_session", "session_time"})
"""Never from a program: another image to run, and a session beside those that are in the ledger."""


def tag_of(qpu_job_id: str) -> str:
    """Return the tag by which a job is found again."""
    return f"qonduit-{qpu_job_id}"


def prepared(body: bytes, changes: Mapping[str, Any]) -> bytes:
    """Return a posted body with fields at the top level set, or left out where the change is None.

    The bytes of all other fields are as the program's client wrote them: numbers keep their digits.
    """
    text = body.decode(json.detect_encoding(body))
    fields = {name: text[begin:end] for name, begin, end in _members(text) if name not in _OURS}
    for name, value in changes.items():
        fields.pop(name, None)
        if value is not None:
            fields[name] = json.dumps(value)
    return "".join(["{", ", ".join(f"{json.dumps(name)}: {value}" for name, value in fields.items()), "}"]).encode()


def _members(text: str) -> Iterator[tuple[str, int, int]]:
    """Return name, begin and end of each member of an object that is known to be valid JSON."""
    decoder = json.JSONDecoder()

    def skip(at: int) -> int:
        found = _SPACE.match(text, at)
        return at if found is None else found.end()

    at = skip(text.index("{") + 1)
    while text[at] != "}":
        name, at = decoder.raw_decode(text, at)
        begin = skip(skip(at) + 1)
        _, end = decoder.raw_decode(text, begin)
        yield name, begin, end
        at = skip(end)
        if text[at] == ",":
            at = skip(at + 1)
