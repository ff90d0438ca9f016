"""What every REST call runs in: the caller, metrics, a span, and errors as answers. The same as for an RPC."""

from __future__ import annotations

import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
from qonduit_service_kit import tracing
from qonduit_service_kit.errors import ApiError
from qonduit_service_kit.interceptors import MetricsInterceptor
from qonduit_service_kit.logs import get_logger
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from qonduit_gateway.rest import errors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from prometheus_client import CollectorRegistry
    from starlette.requests import Request

    from qonduit_gateway.api.callers import CallerInterceptor

    Handler = Callable[[Request], Awaitable[Response]]

_GONE = 499
"""Nobody reads it: who asked has gone."""
_log = get_logger("rest")


class RequestContext:
    """A request, as the interceptors of RPCs see it."""

    def __init__(self, request: Request) -> None:
        self._headers = request.headers
        self._code: grpc.StatusCode | None = None

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        """Return the headers."""
        return tuple(self._headers.items())

    def header(self, name: str) -> str:
        """Return a header, empty when there is none of that name."""
        return self._headers.get(name, "")

    def refused_with(self, code: grpc.StatusCode) -> None:
        """Note how the call ended."""
        self._code = code

    def code(self) -> grpc.StatusCode | None:
        """Return how the call ended, if not well."""
        return self._code


class RestCalls:
    """Makes endpoints of handlers, which may raise ApiError and know who calls."""

    def __init__(self, callers: CallerInterceptor, registry: CollectorRegistry) -> None:
        self._callers = callers
        self._metrics = MetricsInterceptor(registry)

    def endpoint(self, name: str, handler: Handler) -> Handler:
        """Return the endpoint of a handler; `name` is what metrics and spans call it."""

        async def endpoint(request: Request) -> Response:
            context = RequestContext(request)
            try:
                async with self._around(name, context):
                    return await handler(request)
            except ApiError as error:
                return errors.response(error)
            except (ClientDisconnect, HTTPException) as error:
                return _of_http(error)
            except Exception:  # noqa: BLE001 - unforeseen: the caller learns an id, we learn everything.
                return _unforeseen(name)

        return endpoint

    @asynccontextmanager
    async def _around(self, name: str, context: RequestContext) -> AsyncIterator[None]:
        parent = context.header(tracing.HEADER)
        with tracing.span(name, parent=parent, kind="server", **{"http.route": name.partition(" ")[2]}):
            async with self._metrics.around(name, context):
                try:
                    async with self._callers.around(name, context):
                        yield
                except UnicodeEncodeError as error:
                    context.refused_with(grpc.StatusCode.INVALID_ARGUMENT)
                    text = "A text in the request is none: it has half of a surrogate pair, which UTF-8 can't say."
                    raise ApiError(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_VALUE", text) from error
                except ApiError as error:
                    context.refused_with(error.code)
                    raise
                except HTTPException:
                    context.refused_with(grpc.StatusCode.INVALID_ARGUMENT)
                    raise
                except Exception:
                    context.refused_with(grpc.StatusCode.INTERNAL)
                    raise


def _of_http(error: ClientDisconnect | HTTPException) -> Response:
    if isinstance(error, HTTPException):
        return JSONResponse({"message": str(error.detail)}, error.status_code)
    return Response(status_code=_GONE)


def _unforeseen(name: str) -> JSONResponse:
    request_id = uuid.uuid4().hex[:12]
    _log.exception("REST call failed", method=name, request_id=request_id)
    text = f"Internal server error (request {request_id}). Try again; if it stays, report it with this id."
    return JSONResponse({"message": text}, 500)


async def refuse(_request: Request, error: Any) -> Response:
    """Answer what no route takes, with an object as everywhere."""
    return JSONResponse({"message": str(error.detail)}, error.status_code, headers=error.headers)
