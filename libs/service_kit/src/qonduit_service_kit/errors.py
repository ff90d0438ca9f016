"""Errors that cross gRPC: one class, told to the caller by type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2  # type: ignore[import-untyped,unused-ignore]

if TYPE_CHECKING:
    from collections.abc import Mapping

    import grpc

DOMAIN = "qonduit"
TEXT_LIMIT_BYTES = 1024
"""Of each text in a refusal: all of them travel in a header, of which gRPC takes 8 KiB, some of them twice."""
_VALUE_LIMIT_BYTES = 256
_DETAILS_KEY = "grpc-status-details-bin"


class ApiError(Exception):
    """A refusal with a stable reason (UPPER_SNAKE) and a text that says what to do."""

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: str,
        text: str,
        *,
        metadata: Mapping[str, str] | None = None,
        violations: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(text)
        self.code = code
        self.reason = reason
        self.text = text
        self.metadata = dict(metadata or {})
        self.violations = dict(violations or {})
        """For each field that is wrong, what is wrong with it."""

    def to_status(self) -> status_pb2.Status:
        """Return the error as google.rpc.Status with ErrorInfo and, for fields, BadRequest."""
        metadata = {name: _bounded(value, _VALUE_LIMIT_BYTES) for name, value in self.metadata.items()}
        details = [_packed(error_details_pb2.ErrorInfo(reason=self.reason, domain=DOMAIN, metadata=metadata))]
        if self.violations:
            violations = [
                error_details_pb2.BadRequest.FieldViolation(field=field, description=_bounded(text, _VALUE_LIMIT_BYTES))
                for field, text in self.violations.items()
            ]
            details.append(_packed(error_details_pb2.BadRequest(field_violations=violations)))
        number = code_pb2.Code.Value(self.code.name)
        return status_pb2.Status(code=number, message=_bounded(self.text, TEXT_LIMIT_BYTES), details=details)


def _bounded(text: str, limit_bytes: int) -> str:
    """Return a text that can travel: not too long, and without what UTF-8 can't say, such as names of damaged files."""
    data = text.encode(errors="replace")
    return data.decode() if len(data) <= limit_bytes else data[: limit_bytes - 3].decode(errors="ignore") + "..."


def _packed(
    detail: error_details_pb2.ErrorInfo | error_details_pb2.BadRequest,
) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed


def from_rpc_error(error: grpc.RpcError) -> ApiError:
    """Return what a called service refused, as it was raised there; reason "UNKNOWN" if it said none.

    INTERNAL without a reason is grpc.aio's own word for a call that ended under its write, which hides the answer: it
    is UNAVAILABLE here, as for every call that may be made again.
    """
    refusal: Any = error  # What can be asked of it depends on which kind of call failed.
    reason, metadata, violations = "UNKNOWN", dict[str, str](), dict[str, str]()
    for key, value in refusal.trailing_metadata() or ():
        if key != _DETAILS_KEY:
            continue
        for detail in status_pb2.Status.FromString(value).details:
            told, wrong = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
            if detail.Unpack(told):
                reason, metadata = told.reason, dict(told.metadata)
            elif detail.Unpack(wrong):
                violations = {item.field: item.description for item in wrong.field_violations}
    text = refusal.details() or ""
    code = refusal.code()
    if code.name == "INTERNAL" and reason == "UNKNOWN":
        code = type(code).UNAVAILABLE
    return ApiError(code, reason, text, metadata=metadata, violations=violations)


def trailers(status: status_pb2.Status) -> tuple[tuple[str, bytes], ...]:
    """Return the trailing metadata that carries a status with its details."""
    return ((_DETAILS_KEY, status.SerializeToString()),)
