"""Names of functions, as that client sends them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from qonduit_gateway.rest import bodies

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from starlette.requests import Request

_DROPPED = re.compile(r"[^A-Za-z0-9_.@/-]")
"""What Qiskit Serverless drops from a name; dots, and "@" before a version, are ours."""


def function_name(title: str, provider: str | None = None) -> str:
    """Return a function's name as the API has it: its title, and before it its provider if it has one."""
    named, whose = (_DROPPED.sub("", text.strip()) for text in (title, provider or ""))
    return f"{whose}/{named}" if whose and not named.startswith(f"{whose}/") else named


def name_in(fields: Mapping[str, Any]) -> str:
    """Return the name of the function that a body names."""
    return function_name(bodies.text(fields, "title"), bodies.text(fields, "provider"))


def name_asked_for(request: Request) -> str:
    """Return the name of the function that a query names, empty for none."""
    asked = request.query_params
    return function_name(asked.get("function") or asked.get("title") or "", asked.get("provider"))


def of_provider_asked_for(request: Request) -> str:
    """Return the name of the provider's function that a query names; ApiError when it names none."""
    name = name_asked_for(request)
    provider, _, title = name.partition("/")
    if not (provider and title):
        raise bodies.invalid("Name a function and its provider: ?function=title&provider=name")
    return name
