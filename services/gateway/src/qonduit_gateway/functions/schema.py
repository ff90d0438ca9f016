"""What a function says of its arguments: a JSON Schema, checked before a job is accepted.

Schemas are users' own, so nothing in one may reach out or take long: references to other addresses are refused, and
patterns are matched in linear time (back-references and look-around are refused with the schema).
"""

from __future__ import annotations

import json
import struct
from functools import lru_cache

from jsonschema_rs import RegexOptions, ValidationError, Validator, validator_for

LIMIT_BYTES = 64 * 1024
_WITH_SEGMENTS = b"QVALUE1\n"
_LENGTHS = struct.Struct("<QQ")
_TABLE = len(_WITH_SEGMENTS) + _LENGTHS.size
_MOST_TOLD = 5
_MOST_CHARS = 200


class ArgumentsError(ValueError):
    """Arguments that do not fit; `violations` tells why, by the path of what is wrong."""

    def __init__(self, violations: dict[str, str]) -> None:
        super().__init__("; ".join(f"{path}: {why}" for path, why in violations.items()))
        self.violations = violations


def broken_rule(schema: str) -> str:
    """Return what is wrong with a schema, in a sentence that says what to do; empty when it is good."""
    if len(schema.encode()) > LIMIT_BYTES:
        return f"The schema may have {LIMIT_BYTES:,} bytes."
    try:
        if not isinstance(json.loads(schema), dict):
            return 'A schema is a JSON object, such as {"required": ["circuit"]}.'
        _validator(schema)
    except (ValueError, RecursionError) as error:
        return f"This is no JSON Schema: {_first_line(error)}"
    return ""


def check(schema: str, arguments: bytes) -> None:
    """Raise ArgumentsError unless arguments fit a schema; blocks, for as long as there are arguments.

    They are a JSON text, or one with large arrays behind it (`qonduit.large_values`): references stand for those in it.
    """
    wrong: dict[str, str] = {}
    try:
        value = json.loads(_text_of(arguments))
    except (ValueError, RecursionError) as error:
        raise ArgumentsError({"arguments": f"they are no JSON text: {_first_line(error)}"}) from error
    for found in _validator(schema).iter_errors(value):
        path = ".".join(str(part) for part in found.instance_path) or "arguments"
        wrong.setdefault(path, _short(found.message))
        if len(wrong) == _MOST_TOLD:
            break
    if wrong:
        raise ArgumentsError(wrong)


def _text_of(arguments: bytes) -> bytes:
    if not arguments.startswith(_WITH_SEGMENTS):
        return arguments
    json_bytes, count = _LENGTHS.unpack_from(arguments.ljust(_TABLE), len(_WITH_SEGMENTS))
    start = _TABLE + 8 * count
    return arguments[start : start + json_bytes]


@lru_cache(maxsize=256)
def _validator(schema: str) -> Validator:
    try:
        return validator_for(json.loads(schema), pattern_options=RegexOptions(), offline=True)
    except ValidationError as error:
        raise ValueError(error.message) from error


def _first_line(error: Exception) -> str:
    return _short((str(error).splitlines() or [type(error).__name__])[0])


def _short(text: str) -> str:
    """Leave out the middle of what is too long: it begins with the value, and ends with what is wrong with it."""
    return text if len(text) <= _MOST_CHARS else f"{text[: _MOST_CHARS // 2]}...{text[-_MOST_CHARS // 2 :]}"
