"""Refusals as that client shows them: it joins the values of the body's object."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from starlette.responses import JSONResponse

if TYPE_CHECKING:
    from qonduit_service_kit.errors import ApiError

_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.DEADLINE_EXCEEDED: 408,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 413,  # An artifact or a file that is too large, or a full disk.
    grpc.StatusCode.UNAVAILABLE: 503,
}
_STATUS_OF_REASON = {
    "FUNCTION_DISABLED": 423,
    "ROLE_MISSING": 404,  # There, what one may not do looks like what is not there.
}
_TOKEN = {
    "TOKEN_MISSING": "Authorization token was not provided.",
    "TOKEN_INVALID": "Authorization token is not valid.",
}
_OF_FIELD = {
    "spec.entrypoint": "Invalid entrypoint. It must be a relative path to a .py file without '..' segments or shell "
    "characters.",
    "spec.version_label": "Invalid version - expected format x.y.z.",
}


def status_of(error: ApiError) -> int:
    """Return the HTTP status of a refusal."""
    if error.reason == "ACTIVE_JOB_LIMIT":
        return 429
    return _STATUS.get(error.code, 500)


def response(error: ApiError) -> JSONResponse:
    """Return a refusal; where Qiskit Serverless has words of its own for it, with those."""
    status = _STATUS_OF_REASON.get(error.reason) or status_of(error)
    if error.code is grpc.StatusCode.UNAUTHENTICATED:
        words = " ".join(filter(None, (_TOKEN.get(error.reason), error.text)))
        return JSONResponse({"detail": words}, status, headers={"WWW-Authenticate": "Bearer"})
    return JSONResponse({"message": _words(error)}, status)


def _words(error: ApiError) -> str:
    if words := _words_about_functions(error):
        return words
    if error.reason == "JOB_NOT_FOUND":
        return f"Job [{error.metadata.get('job_id', '')}] not found"
    if error.reason == "FUNCTION_NOT_FOUND" and not error.metadata.get("function_version"):
        return unknown_function(error.metadata.get("function_title", ""))
    if error.reason == "FILE_NOT_FOUND":
        return "Requested file was not found."
    if error.reason == "ACTIVE_JOB_LIMIT":
        return f"Active job limit reached. The maximum allowed is {error.metadata.get('limit', '')}."
    return error.text


def _words_about_functions(error: ApiError) -> str:
    about = error.metadata
    if error.reason == "ROLE_MISSING":
        return unknown_function(about.get("function_title", ""), about.get("provider", ""))
    if error.reason == "PROVIDER_NOT_FOUND":
        return unknown_provider(about.get("provider", ""))
    if error.reason == "FUNCTION_DISABLED":
        return about.get("disabled_text", "")
    if error.reason == "INVALID_FUNCTION":
        return " ".join([*(text for name, text in _OF_FIELD.items() if name in error.violations), error.text])
    return ""


def unknown_function(title: str, provider: str = "") -> str:
    """Return the sentence for a function that is not there; one of which the caller may not know looks the same."""
    name = f"{provider}/{title}" if provider else title
    return f"Qiskit Function {name} doesn't exist."


def unknown_provider(provider: str) -> str:
    """Return the sentence for a provider that is not there; one whose people the caller is not of looks the same."""
    return f"Provider {provider} doesn't exist."
