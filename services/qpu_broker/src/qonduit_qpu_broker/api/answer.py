"""What goes back to a client."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer; its bytes are here or, for a digest, in storage."""

    status: int = 200
    body: bytes = b""
    digest: str = ""
    content_type: str = "application/json"


NO_CONTENT = Answer(status=204)


def of_json(document: Any, status: int = 200) -> Answer:
    """Return a document as an answer."""
    return Answer(status, json.dumps(document).encode())


def of_text(body: bytes) -> Answer:
    """Return text as an answer."""
    return Answer(200, body, content_type="text/plain; charset=utf-8")
