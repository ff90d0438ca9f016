"""Bytes on the wire from messages, and back: msgpack of registered dataclasses.

Unknown fields are ignored and missing ones take their defaults, so that old and new code can talk.
"""

from __future__ import annotations

from typing import Any

import msgpack
from cattrs.preconf.msgpack import make_converter

from qonduit_service_kit.messages import type_of, wire_name

_converter = make_converter(detailed_validation=False)


class DecodeError(Exception):
    """Bytes from the wire are no message that this version knows."""


def encode(body: object) -> bytes:
    """Return the msgpack of a registered message; KeyError if its type isn't registered."""
    wire_name(type(body))
    encoded: bytes = msgpack.packb(_converter.unstructure(body), use_bin_type=True)
    return encoded


def decode(name: str, version: int, data: bytes) -> Any:
    """Return the message in `data`; DecodeError if the type is unknown or the bytes don't fit it."""
    body_type = type_of(name, version)
    if body_type is None:
        raise DecodeError(f"unknown message type {name}/{version}")
    try:
        return _converter.structure(msgpack.unpackb(data), body_type)
    except Exception as error:  # Bytes from outside break in many ways; all mean the same here.
        raise DecodeError(f"{name}/{version}: {type(error).__name__}: {error}") from error


def wire_type(body: object) -> str:
    """Return `name/version`, the AMQP type of a message; KeyError if it is none."""
    name, version = wire_name(type(body))
    return f"{name}/{version}"


def decode_wire_type(wire: str | None, data: bytes) -> Any:
    """Decode by an AMQP type `name/version`; DecodeError as for `decode`."""
    name, _, version = (wire or "").rpartition("/")
    if not name or not version.isdecimal():
        raise DecodeError(f"message type {wire!r} is not name/version")
    return decode(name, int(version), data)
