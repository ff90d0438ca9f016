"""Refusals as the gateway words them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status

if TYPE_CHECKING:
    import grpc


def fail(
    context: grpc.ServicerContext,
    code: int,
    reason: str,
    text: str,
    metadata: dict[str, str] | None = None,
    **violations: str,
) -> NoReturn:
    details = []
    for message in (
        error_details_pb2.ErrorInfo(reason=reason, domain="qonduit", metadata=metadata),
        error_details_pb2.BadRequest(
            field_violations=[
                error_details_pb2.BadRequest.FieldViolation(field=name, description=what)
                for name, what in violations.items()
            ]
        ),
    ):
        packed = AnyMessage()
        packed.Pack(message)
        details.append(packed)
    context.abort_with_status(rpc_status.to_status(status_pb2.Status(code=code, message=text, details=details)))
    raise AssertionError("abort raises")
