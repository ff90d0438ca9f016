"""Reads a SetUserLimitRequest: which limit is meant, and whether it can be."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import grpc
from qonduit_service_kit.errors import ApiError

from qonduit_gateway.api.run_requests import LEAST_MEM_BYTES, MOST
from qonduit_gateway.jobs.model import UserLimit

if TYPE_CHECKING:
    from qonduit_api.v1 import cluster_pb2

_MOST_COUNTED = 2**31 - 1
_BOUNDS = {
    "cpu_millis": (1, MOST),
    "mem_bytes": (LEAST_MEM_BYTES, MOST),
    "gpus": (0, _MOST_COUNTED),
    "qpu_seconds": (0, MOST),
    "file_bytes": (0, MOST),
    "active_jobs": (0, _MOST_COUNTED),
    "running_jobs": (0, _MOST_COUNTED),
}

_SET = frozenset(each.name for each in fields(UserLimit))


def check(request: cluster_pb2.SetUserLimitRequest, *, max_time_limit_s: float) -> None:
    """Raise ApiError unless the limit can be meant."""
    bounds = {**_BOUNDS, "time_limit_seconds": (1, max_time_limit_s)}
    wrong = {
        name: f"must be from {least:.16g} to {most:.16g}, and is {value:.16g}"
        for name, value in _set(request).items()
        for least, most in [bounds[name]]
        if not least <= value <= most
    }
    if wrong:
        text = "The limit can't be meant: " + ", ".join(f"{name} {why}" for name, why in wrong.items()) + "."
        raise ApiError(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_LIMIT", text, violations=wrong)


def changed(before: UserLimit, request: cluster_pb2.SetUserLimitRequest) -> UserLimit:
    """Return the limit that follows; what the request does not set stays as it was."""
    return replace(UserLimit() if request.reset else before, **_set(request))


def _set(request: cluster_pb2.SetUserLimitRequest) -> dict[str, Any]:
    return {field.name: value for field, value in request.ListFields() if field.name in _SET}
