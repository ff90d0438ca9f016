"""Errors that cross gRPC: one class, told to the caller by type."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping

DOMAIN = "qonduit"
TEXT_LIMIT = 4096


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
        details = [_packed(error_details_pb2.ErrorInfo(reason=self.reason, domain=DOMAIN, metadata=self.metadata))]
        if self.violations:
            violations = [
                error_details_pb2.BadRequest.FieldViolation(field=field, description=text)
                for field, text in self.violations.items()
            ]
            details.append(_packed(error_details_pb2.BadRequest(field_violations=violations)))
        number = code_pb2.Code.Value(self.code.name)
        return status_pb2.Status(code=number, message=self.text[:TEXT_LIMIT], details=details)


def _packed(
    detail: error_details_pb2.ErrorInfo | error_details_pb2.BadRequest,
) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed


def from_rpc_error(error: grpc.RpcError) -> ApiError:
    """Return what a called service refused, as it was raised there; reason "UNKNOWN" if it said none."""
    code = error.code() if callable(getattr(error, "code", None)) else grpc.StatusCode.UNKNOWN
    text = error.details() if callable(getattr(error, "details", None)) else str(error)
    reason, metadata, violations = "UNKNOWN", {}, {}
    trailing = error.trailing_metadata() if callable(getattr(error, "trailing_metadata", None)) else ()
    for key, value in trailing or ():
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                told, wrong = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
                if detail.Unpack(told):
                    reason, metadata = told.reason, dict(told.metadata)
                elif detail.Unpack(wrong):
                    violations = {item.field: item.description for item in wrong.field_violations}
    return ApiError(code, reason, text or "", metadata=metadata, violations=violations)
