"""gRPC servers and channels with one set of defaults: errors, metrics, health, limits, TLS."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from qonduit_service_kit import tracing
from qonduit_service_kit.errors import ApiError, from_rpc_error
from qonduit_service_kit.interceptors import (
    ErrorInterceptor,
    HearOutInterceptor,
    MetricsInterceptor,
    TracingInterceptor,
)
from qonduit_service_kit.metrics import REGISTRY
from qonduit_service_kit.unsent import AnswerSizeInterceptor, quiet_departures

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from prometheus_client import CollectorRegistry

__all__ = ["ApiError", "ErrorInterceptor", "GrpcServer", "MetricsInterceptor", "channel", "from_rpc_error"]

MESSAGE_LIMIT_BYTES = 4 * 1024**2
STOP_GRACE_S = 5.0
_AHEAD_BYTES = 4 * 1024**2
"""What a stream may have received that nobody has read yet; it allows 80 MB/s where a round trip takes 50 ms.

By itself gRPC lets it grow with the network's speed: to 100 MB for each upload, with its client on the same machine.
"""
_LIMITS = (
    ("grpc.max_receive_message_length", MESSAGE_LIMIT_BYTES),
    ("grpc.max_send_message_length", MESSAGE_LIMIT_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", _AHEAD_BYTES),
)
_SERVER_OPTIONS = (
    *_LIMITS,
    ("grpc.so_reuseport", 0),  # Two servers on one port must fail, not share it.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_ping_strikes", 0),
)


class GrpcServer:
    """A gRPC server as a part; port 0 takes a free one, told by `port`.

    `register` adds the service implementations to the server; `services` are their full names, for reflection.
    A stop lets running calls end for `stop_grace_s` seconds: streams without an end should end themselves before.
    """

    def __init__(
        self,
        register: Callable[[grpc.aio.Server], None],
        *,
        services: Sequence[str],
        host: str = "127.0.0.1",
        port: int = 0,
        interceptors: Sequence[Any] = (),
        tls_cert: Path | None = None,
        tls_key: Path | None = None,
        allow_insecure: bool = False,
        reflect: bool = True,
        stop_grace_s: float = STOP_GRACE_S,
        port_name: str = "grpc_port",
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        self._register = register
        self._services = tuple(services)
        self._host = host
        self._wanted = port
        self._own = tuple(interceptors)
        self._tls = (tls_cert, tls_key)
        self._allow_insecure = allow_insecure
        self._reflect = reflect
        self._stop_grace_s = stop_grace_s
        self._port_name = port_name
        self._registry = registry
        self._server: grpc.aio.Server | None = None
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined,unused-ignore]
        self.port = 0

    @property
    def address(self) -> str:
        """Where clients connect."""
        return f"[{self._host}]:{self.port}" if ":" in self._host else f"{self._host}:{self.port}"

    @property
    def ports(self) -> Mapping[str, int]:
        """The port, for the ready file."""
        return {self._port_name: self.port}

    @property
    def serving(self) -> bool:
        """Whether it serves, as its health service says."""
        return self._server is not None

    async def start(self) -> None:
        """Listen and serve.

        Raises:
            ValueError: It would listen beyond loopback without TLS and without leave to, or has half of a TLS pair.
            OSError: The address cannot be used; the text names it.
        """
        check_exposure(self._host, *self._tls, allow_insecure=self._allow_insecure)
        metrics = MetricsInterceptor(self._registry)
        size = AnswerSizeInterceptor(MESSAGE_LIMIT_BYTES)
        around = (TracingInterceptor(), metrics, ErrorInterceptor(), HearOutInterceptor(), size, *self._own)
        quiet_departures()
        server = grpc.aio.server(interceptors=around, options=_SERVER_OPTIONS)
        self._register(server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if self._reflect:
            names = (*self._services, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, server)
        self.port = self._bind(server)
        await server.start()
        self._server = server
        for name in ("", *self._services):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    def _bind(self, server: grpc.aio.Server) -> int:
        wanted = f"[{self._host}]:{self._wanted}" if ":" in self._host else f"{self._host}:{self._wanted}"
        cert, key = self._tls
        try:
            if cert is not None and key is not None:
                pair = (key.read_bytes(), cert.read_bytes())
                port = server.add_secure_port(wanted, grpc.ssl_server_credentials([pair]))
            else:
                port = server.add_insecure_port(wanted)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {wanted}: is the port in use? ({error})") from error
        if port == 0:
            raise OSError(f"cannot listen on {wanted}: is the port in use?")
        return port

    async def stop(self) -> None:
        """Say NOT_SERVING, take no new calls, let running ones end within the grace; safe to call twice."""
        server, self._server = self._server, None
        if server is not None:
            await self._health.enter_graceful_shutdown()
            await server.stop(self._stop_grace_s)


def check_exposure(host: str, cert: Path | None, key: Path | None, *, allow_insecure: bool) -> None:
    """Raise ValueError for half of a TLS pair, and for listening beyond loopback without TLS and without leave to."""
    if (cert is None) != (key is None):
        raise ValueError("TLS needs both a certificate and its key: set both, or neither")
    if cert is not None or allow_insecure or is_loopback(host):
        return
    raise ValueError(
        f"refusing to listen on {host} without TLS: set the certificate and key, "
        "or allow insecure listening in the settings"
    )


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    if host == "localhost" or host.startswith("unix:"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class _Headers(
    grpc.aio.UnaryUnaryClientInterceptor,  # type: ignore[misc,unused-ignore]
    grpc.aio.UnaryStreamClientInterceptor,
    grpc.aio.StreamUnaryClientInterceptor,
    grpc.aio.StreamStreamClientInterceptor,
):
    """Sends the token, if there is one, and the place in a trace, if there is one, with every call."""

    def __init__(self, token: str) -> None:
        self._token = (("authorization", f"Bearer {token}"),) if token else ()

    def _with_headers(self, details: Any) -> Any:
        place = tracing.current()
        trace = ((tracing.HEADER, place),) if place else ()
        metadata = grpc.aio.Metadata(*(details.metadata or ()), *self._token, *trace)
        return grpc.aio.ClientCallDetails(
            details.method, details.timeout, metadata, details.credentials, details.wait_for_ready
        )

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(self._with_headers(client_call_details), request)

    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(self._with_headers(client_call_details), request)

    async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await continuation(self._with_headers(client_call_details), request_iterator)

    async def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await continuation(self._with_headers(client_call_details), request_iterator)


def channel(address: str, *, token: str = "", ca: Path | None = None) -> grpc.aio.Channel:
    """Return a channel to `host:port`; with a CA file over TLS. Close it when done.

    `token` (a user's token or a ticket) goes with every call; leave it out to send one call by call.
    """
    interceptors = _kinds(_Headers(token)) if token or tracing.enabled() else []
    if ca is not None:
        credentials = grpc.ssl_channel_credentials(ca.read_bytes())
        return grpc.aio.secure_channel(address, credentials, options=_LIMITS, interceptors=interceptors)
    return grpc.aio.insecure_channel(address, options=_LIMITS, interceptors=interceptors)


def _kinds(headers: _Headers) -> list[Any]:
    # grpc.aio sorts an interceptor under the first kind it is an instance of, so each kind needs one of its own.
    methods = {
        grpc.aio.UnaryUnaryClientInterceptor: "intercept_unary_unary",
        grpc.aio.UnaryStreamClientInterceptor: "intercept_unary_stream",
        grpc.aio.StreamUnaryClientInterceptor: "intercept_stream_unary",
        grpc.aio.StreamStreamClientInterceptor: "intercept_stream_stream",
    }
    return [type("Headers", (kind,), {name: getattr(headers, name)})() for kind, name in methods.items()]
