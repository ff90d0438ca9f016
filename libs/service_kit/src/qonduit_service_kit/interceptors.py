"""What wraps every RPC of a server: metrics outside, errors inside."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
import uuid
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import grpc
import grpc.aio
from prometheus_client import CollectorRegistry, Counter, Histogram

from qonduit_service_kit import logs, tracing
from qonduit_service_kit.errors import ApiError, trailers
from qonduit_service_kit.metrics import REGISTRY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

_log = logs.get_logger("rpc")
_NO_SPANS = ("/grpc.health.", "/grpc.reflection.")
_HEAR_OUT_S = 2.0
_PAUSE_S = 1.0
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600)


class AroundInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc,unused-ignore]
    """Runs every RPC, of all four kinds, inside `around(method, context)`."""

    def around(self, method: str, context: Any) -> AbstractAsyncContextManager[None]:
        """Return the context manager that an RPC runs in."""
        raise NotImplementedError

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """Wrap the handler of a call."""
        try:
            handler = await continuation(handler_call_details)
        except Exception as error:  # noqa: BLE001 - an inner interceptor refused: it is told like a handler's error.
            handler = grpc.stream_stream_rpc_method_handler(_refusing(error))
        if handler is None:
            return None
        inner, kind = _inner(handler)
        wrapped = self._wrapped(inner, handler_call_details.method, streams=handler.response_streaming)
        return handler._replace(**{kind: wrapped})

    def _wrapped(self, inner: Callable[..., Any], method: str, *, streams: bool) -> Callable[..., Any]:
        async def call(request: Any, context: Any) -> Any:
            async with self.around(method, context):
                answer = inner(request, context)
                return await answer if inspect.isawaitable(answer) else answer

        async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
            async with self.around(method, context):
                async for answer in inner(request, context):
                    yield answer

        return stream if streams and inspect.isasyncgenfunction(inner) else call


def _refusing(error: Exception) -> Callable[[Any, Any], Awaitable[None]]:
    async def refuse(requests: AsyncIterator[Any], _context: Any) -> None:
        await _hear_out(requests)
        raise error

    return refuse


async def _hear_out(requests: AsyncIterator[Any]) -> None:
    """Throw away what a client still sends, until it ends, pauses, or takes too long.

    A call that ends under its client's write is told to that client as INTERNAL by grpc.aio, in place of our answer.
    """
    # What cannot be read, or is read no more, is thrown away as well.
    with contextlib.suppress(Exception):
        async with asyncio.timeout(_HEAR_OUT_S):
            while True:
                async with asyncio.timeout(_PAUSE_S):
                    await anext(requests)


def _inner(handler: Any) -> tuple[Callable[..., Any], str]:
    for kind in ("unary_unary", "unary_stream", "stream_unary", "stream_stream"):
        inner = getattr(handler, kind)
        if inner is not None:
            return inner, kind
    raise TypeError(f"{handler} handles nothing")


class ErrorInterceptor(AroundInterceptor):
    """Turns ApiError into a rich status, and all else into INTERNAL with a traceback in the log."""

    @asynccontextmanager
    async def around(self, method: str, context: Any) -> AsyncIterator[None]:
        """Translate what the RPC raises."""
        try:
            yield
        except ApiError as error:
            await _abort(context, error)
        except (grpc.aio.AbortError, asyncio.CancelledError, GeneratorExit):
            raise
        except Exception:  # noqa: BLE001 - unforeseen: the caller learns an id, we learn everything.
            request_id = uuid.uuid4().hex[:12]
            _log.exception("RPC failed", method=method, request_id=request_id)
            text = f"Internal error (request {request_id}). Try again; if it stays, report it with this id."
            await _abort(
                context,
                ApiError(grpc.StatusCode.INTERNAL, "INTERNAL", text, metadata={"request_id": request_id}),
            )


async def _abort(context: Any, error: ApiError) -> None:
    status = error.to_status()
    await context.abort(error.code, status.message, trailing_metadata=trailers(status))


class HearOutInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc,unused-ignore]
    """Lets a client that still uploads finish, for a moment, before it is refused or answered early."""

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """Wrap the handler of an upload; who sends and is answered in turns is not kept waiting."""
        handler = await continuation(handler_call_details)
        inner = handler and handler.stream_unary
        if inner is None:
            return handler

        async def call(requests: AsyncIterator[Any], context: Any) -> Any:
            try:
                answer = await inner(requests, context)
            except Exception:
                await _hear_out(requests)
                raise
            await _hear_out(requests)
            return answer

        return handler._replace(stream_unary=call)


class _RpcMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.calls = Counter("qonduit_rpc_calls_total", "RPCs that ended.", ["method", "code"], registry=registry)
        self.seconds = Histogram(
            "qonduit_rpc_seconds", "Seconds of RPCs.", ["method"], buckets=_BUCKETS, registry=registry
        )


_made: WeakKeyDictionary[CollectorRegistry, _RpcMetrics] = WeakKeyDictionary()
"""Several servers of one process share their metrics."""


class MetricsInterceptor(AroundInterceptor):
    """Counts calls and their seconds by method and code."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        if registry not in _made:
            _made[registry] = _RpcMetrics(registry)
        self._calls = _made[registry].calls
        self._seconds = _made[registry].seconds

    @asynccontextmanager
    async def around(self, method: str, context: Any) -> AsyncIterator[None]:
        """Time and count the RPC."""
        began = time.perf_counter()
        code = "OK"
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):
            code = "CANCELLED"
            raise
        except BaseException:
            code = _name_of(context.code())
            raise
        finally:
            self._calls.labels(method, code).inc()
            self._seconds.labels(method).observe(time.perf_counter() - began)


def _name_of(code: Any) -> str:
    if isinstance(code, grpc.StatusCode):
        return code.name
    return next((known.name for known in grpc.StatusCode if known.value[0] == code and code), "UNKNOWN")


class TracingInterceptor(AroundInterceptor):
    """Makes each RPC a span, below the caller's if it sent a `traceparent`."""

    @asynccontextmanager
    async def around(self, method: str, context: Any) -> AsyncIterator[None]:
        """Be in the RPC's span."""
        if not tracing.enabled() or method.startswith(_NO_SPANS):
            yield
            return
        parent = next((str(value) for key, value in context.invocation_metadata() if key == tracing.HEADER), "")
        name = method.strip("/")
        with tracing.span(name, parent=parent, kind="server", **{"rpc.system": "grpc", "rpc.method": name}) as made:
            try:
                yield
            except BaseException:
                made.error = _name_of(context.code())
                raise
