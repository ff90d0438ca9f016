"""Page sizes and page tokens. A token is opaque to callers and grants nothing: it only says where to go on."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

import grpc
from qonduit_service_kit.errors import ApiError

DEFAULT_SIZE = 100
MOST = 1000


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


def to_token(key: Any) -> str:
    """Return a token for the last row of a page."""
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode()


def from_token(token: str, *shape: type) -> Any:
    """Return the key in a token, None for an empty one; ApiError when it isn't one of ours."""
    if not token:
        return None
    try:
        key = json.loads(base64.urlsafe_b64decode(token.encode()))
    except (ValueError, binascii.Error, UnicodeError):
        key = None
    values = key if isinstance(key, list) else [key]
    fits = len(values) == len(shape) and all(
        isinstance(value, kind) or (kind is float and isinstance(value, int))
        for value, kind in zip(values, shape, strict=True)
    )
    if not fits:
        raise ApiError(
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_PAGE_TOKEN",
            "The page token is damaged. Start again without one.",
            violations={"page_token": "Take it from the last answer, unchanged."},
        )
    return tuple(values) if len(shape) > 1 else values[0]
