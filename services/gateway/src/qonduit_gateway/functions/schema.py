"""What a function says of its arguments: a JSON Schema, checked before a job is accepted.

Schemas are users' own, so nothing in one may reach out: references to other documents are refused, and patterns are
matched in linear time (back-references and look-around are refused with the schema). That a check ends in time is the
matter of `schema_process`, which calls what is here.
"""

from __future__ import annotations

import json
import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from jsonschema_rs import RegexOptions, ValidationError, Validator, validator_for

from qonduit_gateway.segments import MAGIC, without_references

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from qonduit_service_kit.chunks import Chunk

LIMIT_BYTES = 64 * 1024
_LENGTHS = struct.Struct("<QQ")
_TABLE = len(MAGIC) + _LENGTHS.size
_MOST_TOLD = 5
_MOST_CHARS = 200
_MOST_QUOTED = 100
_QUOTE = "\0"
"""Stands in a message for the value that is wrong: in texts that are quoted as JSON it would be escaped."""
_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)


class ArgumentsError(ValueError):
    """Arguments that do not fit; `violations` tells why, by the path of what is wrong."""

    def __init__(self, violations: dict[str, str]) -> None:
        super().__init__("; ".join(f"{path}: {why}" for path, why in violations.items()))
        self.violations = violations


def broken_rule(schema: str) -> str:
    """Return what is wrong with a schema, in a sentence that says what to do; empty when it is good."""
    if len(schema.encode()) > LIMIT_BYTES:
        return too_long()
    try:
        if not isinstance(json.loads(schema), dict):
            return 'A schema is a JSON object, such as {"required": ["circuit"]}.'
        _validator(schema)
    except (ValueError, RecursionError) as error:
        return f"This is no JSON Schema: {_first_line(error)}"
    return ""


def too_long() -> str:
    """Return the sentence for a schema that has too many bytes."""
    return f"The schema may have {LIMIT_BYTES:,} bytes."


def check(schema: str, arguments: bytes) -> None:
    """Raise ArgumentsError unless arguments, a JSON text, fit a schema."""
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError) as error:
        raise ArgumentsError({"arguments": f"they are no JSON text: {_first_line(error)}"}) from error
    try:
        wrong = _wrong(schema, value)
    except UnicodeEncodeError as error:
        text = f"the text {error.object[:_MOST_QUOTED]!a} in them has half of a character, and cannot be checked"
        raise ArgumentsError({"arguments": text}) from error
    if wrong:
        raise ArgumentsError(wrong)


def _wrong(schema: str, value: Any) -> dict[str, str]:
    """Return what is wrong by its place, of the first places that are."""
    wrong: dict[str, str] = {}
    for found in _validator(schema).iter_errors(value):
        path = _short(".".join(str(part) for part in found.instance_path)) or "arguments"
        if path not in wrong:
            wrong[path] = _short(found.message).replace(_QUOTE, _quoted(found.instance))
        if len(wrong) == _MOST_TOLD:
            break
    return wrong


async def json_of(chunks: AsyncIterator[Chunk], most_bytes: int) -> bytes:
    """Return the JSON of stored arguments, reading no further than it goes, and not much beyond `most_bytes`.

    They are a JSON text, or one with large arrays and circuits behind it: in place of each of those is a value of the
    same type, so that a schema need not know how large they are.
    """
    data = bytearray()
    start, end = 0, most_bytes + 1  # One more, so that too much is seen to be too much.
    async for chunk in chunks:
        data += chunk
        if not start and len(data) >= _TABLE and data.startswith(MAGIC):
            json_bytes, count = _LENGTHS.unpack_from(data, len(MAGIC))
            start = _TABLE + 8 * count
            end = start + min(json_bytes, most_bytes + 1)
        if len(data) >= end or start > most_bytes:
            break
    text = bytes(data[start:end])
    # What is too much stays so: it must not become short enough to be checked.
    return without_references(text) if start and len(text) <= most_bytes else text


@lru_cache(maxsize=256)
def _validator(schema: str) -> Validator:
    try:
        return validator_for(json.loads(schema), pattern_options=RegexOptions(), offline=True, mask=_QUOTE)
    except ValidationError as error:
        raise ValueError(error.message) from error


def _first_line(error: Exception) -> str:
    return _short((str(error).splitlines() or [type(error).__name__])[0])


def _quoted(value: Any) -> str:
    """Return how a value begins; of one that is encoded, what it is and not the code, which tells nobody anything."""
    if isinstance(value, dict) and "__type__" in value:
        value = {**value, "__value__": "..."}
    text = ""
    for piece in _ENCODER.iterencode(value):
        text += piece
        if len(text) > _MOST_QUOTED:
            return f"{text[:_MOST_QUOTED]}..."
    return text


def _short(text: str) -> str:
    """Leave out the middle of what is too long."""
    return text if len(text) <= _MOST_CHARS else f"{text[: _MOST_CHARS // 2]}...{text[-_MOST_CHARS // 2 :]}"
