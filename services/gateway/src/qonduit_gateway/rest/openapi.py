"""What can be asked for, and its description in OpenAPI."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qonduit_gateway import __version__
from qonduit_gateway.rest.schemas import ASKED, FORMS, HEADERS, SCHEMAS, ref

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from starlette.requests import Request
    from starlette.responses import Response

PREFIX = "/api/v1"
_PARAMETER = re.compile(r"{(\w+)}")
_JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Operation:
    """A method of a path."""

    method: str
    path: str
    handler: Callable[[Request], Awaitable[Response]]
    gives: str = ""
    """The schema of what it answers; empty where that is bytes, or always a refusal."""
    takes: str = ""
    """The schema of its body; empty where it has none."""
    asks: tuple[str, ...] = ()
    """What its query, or its headers, may have."""

    @property
    def name(self) -> str:
        """What metrics and spans call it."""
        return f"{self.method} {PREFIX}{self.path}"

    @property
    def route(self) -> str:
        """Its path as OpenAPI has it."""
        return PREFIX + self.path.replace(":path", "")


def document(offered: Sequence[Operation]) -> dict[str, Any]:
    """Return the description of all operations."""
    paths: dict[str, dict[str, Any]] = {}
    for each in offered:
        paths.setdefault(each.route, {})[each.method.lower()] = _described(each)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Qonduit, as clients of Qiskit Serverless speak to it", "version": __version__},
        "security": [{"token": []}],
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}, "schemas": SCHEMAS},
        "paths": paths,
    }


def _described(each: Operation) -> dict[str, Any]:
    summary, _, more = (each.handler.__doc__ or "").partition("\n")
    in_path = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PARAMETER.findall(each.route)
    ]
    asked = [
        {"name": name, "in": "header" if name in HEADERS else "query", "schema": (HEADERS | ASKED)[name]}
        for name in each.asks
    ]
    made: dict[str, Any] = {"summary": summary, "parameters": in_path + asked, "responses": _responses(each)}
    if more.strip():
        made["description"] = more.strip()
    if each.takes:
        kind = "multipart/form-data" if each.takes in FORMS else _JSON
        made["requestBody"] = {"required": True, "content": {kind: {"schema": ref(each.takes)}}}
    return made


def _responses(each: Operation) -> dict[str, Any]:
    made = {
        "401": _body("Without a token, or with one that is not known.", ref("NotLetIn")),
        "default": _body("A refusal, which says why.", ref("Refusal")),
    }
    if each.gives == "Result":
        made["204"] = {"description": "There is none."}
    if each.gives:
        made["200"] = _body("It is done.", ref(each.gives))
    elif each.path.endswith("/download"):
        content = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
        made["200"] = {"description": "The file.", "content": content}
    return made


def _body(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {_JSON: {"schema": schema}}}
