"""Roles, by the names that people use."""

from __future__ import annotations

from qonduit_api.v1 import types_pb2


def role_text(role: types_pb2.Role.ValueType) -> str:
    """Return a role's name, or a number for one that this client does not know yet."""
    known = types_pb2.Role.DESCRIPTOR.values_by_number.get(role)
    return known.name.removeprefix("ROLE_") if known else f"ROLE_{role}"


def role_of(text: str) -> types_pb2.Role.ValueType:
    """Return the role of a name; ValueError if there is none such."""
    known = {name.removeprefix("ROLE_"): value for name, value in types_pb2.Role.items() if value}
    name = text.strip().upper()
    if name not in known:
        raise ValueError(f"There is no role {text!r}; there are {', '.join(known)}.")
    return known[name]
