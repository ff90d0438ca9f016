"""Writes down what the client asked and what it was answered, for who holds it to the description of the API."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests

if TYPE_CHECKING:
    from pathlib import Path


def begin(path: Path) -> None:
    """Write a line for each request from now on."""
    send = requests.Session.send

    def recorded(session: requests.Session, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        answer = send(session, request, **options)
        asked = {"method": request.method, "path": urlsplit(str(request.url)).path, "sent": _json(request)}
        with path.open("a") as lines:
            lines.write(json.dumps({**asked, "status": answer.status_code, "body": _json(answer)}) + "\n")
        return answer

    requests.Session.send = recorded  # type: ignore[method-assign,assignment]


def _json(message: requests.PreparedRequest | requests.Response) -> Any:
    """Return a body that is JSON; None for any other."""
    if not str(message.headers.get("content-type", "")).startswith("application/json"):
        return None
    content: Any = message.content if isinstance(message, requests.Response) else message.body
    return json.loads(content)
