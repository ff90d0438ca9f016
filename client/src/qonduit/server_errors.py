"""From what gRPC raises to our own exceptions; the only place that knows both."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from google.rpc import error_details_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status

from qonduit import exceptions as errors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf.any_pb2 import Any as AnyMessage

_BY_REASON: Mapping[str, type[errors.ServerError]] = {
    "FUNCTION_NOT_FOUND": errors.FunctionNotFoundError,
    "JOB_NOT_FOUND": errors.JobNotFoundError,
    "FILE_NOT_FOUND": errors.StoredFileNotFoundError,
    "BACKEND_NOT_FOUND": errors.BackendNotFoundError,
    "QPU_JOB_NOT_FOUND": errors.QpuJobNotFoundError,
    "QPU_SESSION_NOT_FOUND": errors.QpuSessionNotFoundError,
    "QPU_JOB_OVER": errors.QpuJobOverError,
    "PROVIDER_NOT_FOUND": errors.ProviderNotFoundError,
    "GRANT_NOT_FOUND": errors.GrantNotFoundError,
    "ROLE_MISSING": errors.RoleMissingError,
    "FUNCTION_DISABLED": errors.FunctionDisabledError,
    "INVALID_FILE_NAME": errors.InvalidFileError,
    "INVALID_FILE_CONTENT": errors.InvalidFileError,
    "DIGEST_MISMATCH": errors.TransferDamagedError,
    "FILE_TOO_LARGE": errors.FileTooLargeError,
    "DISK_FULL": errors.DiskFullError,
    "ACTIVE_JOB_LIMIT": errors.ActiveJobLimitError,
    "QUOTA_EXCEEDED": errors.QuotaExceededError,
}
_BY_CODE: Mapping[grpc.StatusCode, type[errors.ServerError]] = {
    grpc.StatusCode.UNAVAILABLE: errors.ServerUnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceededError,
    grpc.StatusCode.UNAUTHENTICATED: errors.AuthenticationError,
    grpc.StatusCode.PERMISSION_DENIED: errors.AccessDeniedError,
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidRequestError,
    grpc.StatusCode.OUT_OF_RANGE: errors.InvalidRequestError,
    grpc.StatusCode.NOT_FOUND: errors.NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: errors.ConflictError,
    grpc.StatusCode.ABORTED: errors.ConflictError,
    grpc.StatusCode.FAILED_PRECONDITION: errors.ConflictError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.LimitExceededError,
}


def from_rpc_error(error: grpc.RpcError, address: str) -> errors.QonduitError:
    """Return the exception that stands for an RpcError; unknown reasons fall back on the status code."""
    call = _as_call(error)
    code = call.code() if call else grpc.StatusCode.UNKNOWN
    text = (call.details() if call else None) or str(error)
    reason, metadata, violations = _details(call) if call else ("", {}, {})
    if reason == "JOB_NOT_DONE":
        return errors.JobNotDoneError(text)
    if reason == "ARTIFACT_TOO_LARGE":
        return errors.ArtifactTooLargeError(text)
    if reason == "INVALID_FUNCTION":
        return errors.InvalidFunctionError(_with_violations(text, violations))
    kind = _BY_REASON.get(reason) or _BY_CODE.get(code, errors.ServerFaultError)
    if not reason:
        text = _explain(code, text, address)
    return kind(
        _with_violations(text, violations),
        reason=reason or code.name,
        metadata=metadata,
        violations=violations,
    )


def is_unavailable(error: grpc.RpcError) -> bool:
    """Whether the server wasn't there, so that a repeated call may find it."""
    call = _as_call(error)
    return call is not None and call.code() is grpc.StatusCode.UNAVAILABLE


def _as_call(error: object) -> grpc.Call | None:
    """Return the call that failed: what stubs raise is both an error and a call, which no type says."""
    return error if isinstance(error, grpc.Call) else None


def _explain(code: grpc.StatusCode, text: str, address: str) -> str:
    if code is grpc.StatusCode.UNAVAILABLE:
        if "Expected SETTINGS frame" in text:
            return f"{address} answers, but not by gRPC: name the gateway's gRPC port, which `qonduit status` shows."
        return (
            f"No Qonduit server answers at {address} ({text}). "
            "Start one with `qonduit up`, or set QONDUIT_ADDRESS to where it is."
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"The server at {address} did not answer in time ({text})."
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return f"The server at {address} does not know this call; it may be older than this client ({text})."
    return text


def _with_violations(text: str, violations: Mapping[str, str]) -> str:
    # Details of an answer are cut sooner than its text, and what was cut says nothing that the text does not.
    missing = [f"{field}: {what}" for field, what in violations.items() if what.removesuffix("...") not in text]
    return "\n".join([text, *missing])


def _details(call: grpc.Call) -> tuple[str, dict[str, str], dict[str, str]]:
    """Return ErrorInfo's reason and metadata, and BadRequest's violations; empty where there are none."""
    try:
        status = rpc_status.from_call(call)
    except ValueError:  # Details that contradict the status: nothing a user could do about.
        status = None
    reason, metadata, violations = "", {}, {}
    for detail in status.details if status else ():
        if info := _unpacked(detail, error_details_pb2.ErrorInfo()):
            reason, metadata = info.reason, dict(info.metadata)
        elif bad := _unpacked(detail, error_details_pb2.BadRequest()):
            violations = {item.field: item.description for item in bad.field_violations}
    return reason, metadata, violations


def _unpacked(detail: AnyMessage, into: _Detail) -> _Detail | None:
    return into if detail.Unpack(into) else None


if TYPE_CHECKING:
    from typing import TypeVar

    _Detail = TypeVar("_Detail", error_details_pb2.ErrorInfo, error_details_pb2.BadRequest)
