"""Answers that could not be sent: that a client has left is no error, that an answer is too large is one.

grpc.aio logs both alike: as an ExecuteBatchError, with a traceback that tells nothing.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import grpc.aio

from qonduit_service_kit import logs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_log = logs.get_logger("rpc")


class AnswerSizeInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc,unused-ignore]
    """Logs an answer that is larger than a message may be; gRPC ends its call with RESOURCE_EXHAUSTED."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """Measure what the handler of a call answers."""
        handler = await continuation(handler_call_details)
        serialize = handler and handler.response_serializer
        if serialize is None:
            return handler

        def measured(answer: Any) -> bytes:
            message: bytes = serialize(answer)
            if len(message) > self._limit_bytes:
                method, size, limit = handler_call_details.method, len(message), self._limit_bytes
                _log.error("answer too large to be sent", method=method, size_bytes=size, limit_bytes=limit)
            return message

        return handler._replace(response_serializer=measured)


def quiet_departures() -> None:
    """Have clients that leave in the middle of a call logged in one line that is no error; safe to call twice."""
    logging.getLogger("grpc._cython.cygrpc").addFilter(_quieter)


def _quieter(record: logging.LogRecord) -> bool:
    kind = record.exc_info[0] if record.exc_info else None
    if kind is None or kind.__name__ != "ExecuteBatchError":
        return True
    method = record.getMessage().rpartition(" ")[2]
    record.msg, record.args = f"client left before it had the whole answer of {method}", ()
    record.exc_info = record.exc_text = None
    record.levelno, record.levelname = logging.INFO, "INFO"
    return logging.getLogger().isEnabledFor(record.levelno)
