"""Reads a RunRequest: what is asked for, within which limits, and how to tell that it is the same one again."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
from qonduit_service_kit.errors import ApiError
from qonduit_service_kit.messages import Shape

from qonduit_gateway.functions.rules import is_digest

if TYPE_CHECKING:
    from qonduit_api.v1 import jobs_pb2

    from qonduit_gateway.database.user_rows import User

INLINE_ARGUMENTS_LIMIT_BYTES = 1024 * 1024
_KEY_LIMIT_CHARS = 128
_INT32_MAX = 2**31 - 1
MOST = 2**50
"""Of bytes, or of thousandths of a core, that anybody may ask for."""
MOST_FILES = 1000
LEAST_MEM_BYTES = 16 * 1024**2
"""No Python program starts in less; who asks for less most likely thought of another unit."""


@dataclass(frozen=True, slots=True)
class RunLimits:
    """What a run gets that asks for nothing, and the most it may ask for."""

    default_shape: Shape
    default_time_limit_s: float
    max_time_limit_s: float


def shape_of(request: jobs_pb2.RunRequest, limits: RunLimits) -> Shape:
    """Return what the driver gets; ApiError when it can't be meant."""
    wanted = request.resources
    wrong = {
        f"resources.{name}": f"must not be negative or above {most}, and is {value}"
        for name, value, most in (
            ("cpu_millis", wanted.cpu_millis, MOST),
            ("mem_bytes", wanted.mem_bytes, MOST),
            ("gpus", wanted.gpus, _INT32_MAX),
        )
        if not 0 <= value <= most
    }
    if 0 < wanted.mem_bytes < LEAST_MEM_BYTES:
        wrong["resources.mem_bytes"] = f"is in bytes, must be at least {LEAST_MEM_BYTES}, and is {wanted.mem_bytes}"
    if wrong:
        raise ApiError(
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_RESOURCES",
            "The resources can't be meant: " + ", ".join(f"{name} {why}" for name, why in wrong.items()) + ".",
            violations=wrong,
        )
    default = limits.default_shape
    return Shape(wanted.cpu_millis or default.cpu_millis, wanted.mem_bytes or default.mem_bytes, wanted.gpus)


def time_limit_of(request: jobs_pb2.RunRequest, limits: RunLimits, user: User) -> float:
    """Return the job's time limit in seconds; ApiError when it is out of bounds."""
    wanted, most = request.time_limit_seconds, user.limit.time_limit_within(limits.max_time_limit_s)
    if math.isfinite(wanted) and 0 <= wanted <= most:
        return wanted or min(limits.default_time_limit_s, most)
    whose = f", the longest that {user.name} may ask for" if most < limits.max_time_limit_s else ""
    text = f"time_limit_seconds must be above 0 and at most {most:.15g}{whose}, and is {wanted:.15g}."
    raise ApiError(
        grpc.StatusCode.INVALID_ARGUMENT, "INVALID_TIME_LIMIT", text, violations={"time_limit_seconds": text}
    )


def qpu_budget_of(request: jobs_pb2.RunRequest) -> float | None:
    """Return the most QPU seconds that the job may be charged, None for no limit; ApiError when it can't be meant."""
    wanted = request.qpu_budget_seconds
    if 0 <= wanted <= MOST:
        return wanted or None
    text = f"qpu_budget_seconds must be above 0, or 0 for no limit, and is {wanted:g}."
    raise ApiError(
        grpc.StatusCode.INVALID_ARGUMENT, "INVALID_QPU_BUDGET", text, violations={"qpu_budget_seconds": text}
    )


def files_of(request: jobs_pb2.RunRequest) -> tuple[str, ...] | None:
    """Return the names of the files that the job is to find, None for all; ApiError when there are too many."""
    if not request.HasField("files"):
        return None
    names = tuple(dict.fromkeys(request.files.names))
    if len(names) <= MOST_FILES:
        return names
    text = f"files names {len(names):,} files; name at most {MOST_FILES:,}, or leave it out for all of them."
    raise ApiError(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FILES", text, violations={"files": text})


def arguments_of(request: jobs_pb2.RunRequest) -> bytes | None:
    """Return the arguments' JSON text, or None when the request names a digest; ApiError when they are no object."""
    if request.WhichOneof("arguments") == "arguments_digest":
        if is_digest(request.arguments_digest):
            return None
        raise _invalid_arguments("arguments_digest is no sha256 in hexadecimal; take it from UploadArguments.")
    text = request.arguments_json or b"{}"
    if len(text) > INLINE_ARGUMENTS_LIMIT_BYTES:
        raise _invalid_arguments(
            f"The arguments have {len(text)} bytes, of which {INLINE_ARGUMENTS_LIMIT_BYTES} may travel in the request. "
            "Store them with UploadArguments and name their digest."
        )
    check_arguments(text)
    return text


def check_arguments(text: bytes) -> None:
    """Raise ApiError unless a text is a JSON object."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _invalid_arguments(f"The arguments are no JSON text: {error}.") from error
    if not isinstance(value, dict):
        raise _invalid_arguments(
            f"The arguments must be a JSON object of names and values, not a {type(value).__name__}."
        )


def key_of(request: jobs_pb2.RunRequest) -> str:
    """Return the idempotency key, which may be empty; ApiError when it is too long."""
    key = request.idempotency_key
    if len(key) <= _KEY_LIMIT_CHARS and "\0" not in key:
        return key
    text = f"Use 1 to {_KEY_LIMIT_CHARS} characters, for example a UUID."
    raise ApiError(
        grpc.StatusCode.INVALID_ARGUMENT, "INVALID_IDEMPOTENCY_KEY", text, violations={"idempotency_key": text}
    )


def request_hash(request: jobs_pb2.RunRequest) -> str:
    """Return what two requests with one key must have in common: all of it, as it was sent."""
    if request.WhichOneof("arguments") == "arguments_digest":
        arguments = request.arguments_digest
    else:
        arguments = hashlib.sha256(request.arguments_json or b"{}").hexdigest()
    wanted = request.resources
    content = [
        request.function_title,
        request.function_version,
        arguments,
        wanted.cpu_millis,
        wanted.mem_bytes,
        wanted.gpus,
        request.time_limit_seconds,
        request.priority,
    ]
    # Added later: keys of before stand for what they did.
    if request.qpu_budget_seconds:
        content.append(request.qpu_budget_seconds)
    if request.HasField("files"):
        content.append(sorted(request.files.names))
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _invalid_arguments(text: str) -> ApiError:
    return ApiError(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENTS", text, violations={"arguments": text})
