"""Page sizes and page tokens. A token is opaque to callers and grants nothing: it only says where to go on."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from google.protobuf.message import Message as ProtobufMessage
from qonduit_service_kit.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_SIZE = 100
MOST = 1000
_MOST_BYTES = 3 * 1024**2
"""Of one answer: gRPC refuses a message above 4 MiB."""
_OVERHEAD_BYTES = 8
_INT64 = 2**63

Message = TypeVar("Message", bound=ProtobufMessage)


def page_size(wanted: int) -> int:
    """Return a size within bounds; ApiError when it is negative."""
    if wanted < 0:
        raise ApiError(
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_PAGE_SIZE",
            "page_size must not be negative.",
            violations={"page_size": "Use 0 for the default."},
        )
    return min(wanted or DEFAULT_SIZE, MOST)


def check_skip(wanted: int) -> None:
    """Raise ApiError for a number of entries to leave out that is negative."""
    if wanted < 0:
        raise ApiError(
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_SKIP",
            "skip must not be negative.",
            violations={"skip": "Use 0 to leave nothing out."},
        )


def fitting(messages: Sequence[Message]) -> Sequence[Message]:
    """Return as many of a page's messages, from the first, as one answer can carry; the next page has the others."""
    size_bytes = 0
    for position, message in enumerate(messages):
        size_bytes += message.ByteSize() + _OVERHEAD_BYTES
        if position and size_bytes > _MOST_BYTES:
            return messages[:position]
    return messages


def to_token(key: Any) -> str:
    """Return a token for the last row of a page."""
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode()


def from_token(token: str, *shape: type) -> Any:
    """Return the key in a token, None for an empty one; ApiError when it isn't one of ours."""
    if not token:
        return None
    try:
        key = json.loads(base64.urlsafe_b64decode(token.encode()))
    except (ValueError, RecursionError):
        key = None
    values = key if isinstance(key, list) else [key]
    fits = len(values) == len(shape) and all(_may_be(value, kind) for value, kind in zip(values, shape, strict=True))
    if not fits:
        raise ApiError(
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_PAGE_TOKEN",
            "The page token is damaged. Start again without one.",
            violations={"page_token": "Take it from the last answer, unchanged."},
        )
    return tuple(values) if len(shape) > 1 else values[0]


def _may_be(value: object, kind: type) -> bool:
    """Whether a database can compare a value with a column of a kind."""
    if isinstance(value, str):
        return kind is str and "\0" not in value
    if isinstance(value, bool) or not isinstance(value, int | float) or not -_INT64 <= value < _INT64:
        return False
    return kind is float or (kind is int and isinstance(value, int))
