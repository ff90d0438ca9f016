"""The connection to a server: one channel, deadlines, and retries where a repeated call does no harm."""

from __future__ import annotations

import os
import random
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from qonduit_api.v1.cluster_pb2_grpc import ClusterServiceStub
from qonduit_api.v1.files_pb2_grpc import FileServiceStub
from qonduit_api.v1.functions_pb2_grpc import FunctionServiceStub
from qonduit_api.v1.jobs_pb2_grpc import JobServiceStub
from qonduit_api.v1.providers_pb2_grpc import ProviderServiceStub
from qonduit_api.v1.qpu_pb2_grpc import QpuServiceStub

from qonduit.exceptions import ConfigurationError
from qonduit.server_errors import from_rpc_error, is_unavailable
from qonduit.tracing import traceparent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from qonduit.settings import Target

    Request = TypeVar("Request")
    Response = TypeVar("Response")

CALL_TIMEOUT_S = 30.0
TRANSFER_TIMEOUT_S = 3600.0
"""For uploads and downloads; a dead server is noticed by keepalive long before."""
CHUNK_BYTES = 1024**2
FIRST_PATIENCE_S = 1.0
"""How long a server that was never reached is tried again."""
PATIENCE_S = 60.0
"""How long a server that answered before is tried again: long enough for it to be restarted."""

_OPTIONS = (
    ("grpc.max_receive_message_length", 8 * 1024**2),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)


@dataclass(frozen=True, slots=True)
class Services:
    """The stubs of one channel."""

    functions: FunctionServiceStub
    jobs: JobServiceStub
    files: FileServiceStub
    providers: ProviderServiceStub
    qpus: QpuServiceStub
    cluster: ClusterServiceStub


class Backoff:
    """Waits that grow, with jitter, until patience has run out."""

    def __init__(self, patience_s: float) -> None:
        self._end = time.monotonic() + patience_s
        self._wait_s = 0.05

    def wait(self) -> bool:
        """Wait for the next try; False when patience has run out."""
        wait_s = self._wait_s * random.uniform(0.5, 1.0)  # noqa: S311 - Jitter needs no secrecy.
        self._wait_s = min(self._wait_s * 2, 2.0)
        if time.monotonic() + wait_s > self._end:
            return False
        time.sleep(wait_s)
        return True


class Connection:
    """A server as this process sees it: connected at its first use, safe for any thread and after a fork."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._lock = threading.Lock()
        self._channel: grpc.Channel | None = None
        self._services: Services | None = None
        self._pid = 0
        self._reached = False

    def call(
        self,
        select: Callable[[Services], grpc.UnaryUnaryMultiCallable[Request, Response]],
        request: Request,
        *,
        idempotent: bool = True,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> Response:
        """Make a call; an idempotent one is repeated while the server is away.

        Raises:
            QonduitError: The class tells what went wrong.
        """

        def once() -> Response:
            return select(self.services())(request, timeout=timeout_s, metadata=self._metadata())

        return self._persist(once, idempotent=idempotent)

    def send(
        self,
        select: Callable[[Services], grpc.StreamUnaryMultiCallable[Request, Response]],
        requests: Callable[[], Iterable[Request]],
    ) -> Response:
        """Upload a stream of requests, from its beginning again if the server goes away; errors as in `call`."""

        def once() -> Response:
            return select(self.services())(iter(requests()), timeout=TRANSFER_TIMEOUT_S, metadata=self._metadata())

        return self._persist(once)

    def receive(
        self,
        select: Callable[[Services], grpc.UnaryStreamMultiCallable[Request, Response]],
        request: Request,
        *,
        timeout_s: float | None = TRANSFER_TIMEOUT_S,
    ) -> Iterator[Response]:
        """Yield a stream of responses; nothing is repeated, the caller knows where to go on.

        Errors are as in `call`. The call is canceled when the iterator is closed.
        """
        call = select(self.services())(request, timeout=timeout_s, metadata=self._metadata())
        try:
            for response in call:
                self._reached = True
                yield response
        except grpc.RpcError as error:
            raise from_rpc_error(error, self.target.address) from None
        finally:
            call.cancel()

    def backoff(self) -> Backoff:
        """Return the waits to make between tries, given whether the server was ever reached."""
        return Backoff(PATIENCE_S if self._reached else FIRST_PATIENCE_S)

    def close(self) -> None:
        """Close the channel; the next call opens a new one."""
        with self._lock:
            channel, self._channel, self._services = self._channel, None, None
        if channel is not None and self._pid == os.getpid():
            channel.close()

    def services(self) -> Services:
        """Return the stubs of this process's channel."""
        with self._lock:
            if self._services is None or self._pid != os.getpid():
                self._channel, self._pid = _open(self.target), os.getpid()
                self._services = Services(
                    FunctionServiceStub(self._channel),
                    JobServiceStub(self._channel),
                    FileServiceStub(self._channel),
                    ProviderServiceStub(self._channel),
                    QpuServiceStub(self._channel),
                    ClusterServiceStub(self._channel),
                )
            return self._services

    def _persist(self, once: Callable[[], Response], *, idempotent: bool = True) -> Response:
        backoff: Backoff | None = None
        while True:
            try:
                response = once()
            except grpc.RpcError as error:
                backoff = backoff or self.backoff()  # Only from now on: an upload alone may take longer than it lasts.
                if not (idempotent and is_unavailable(error) and backoff.wait()):
                    raise from_rpc_error(error, self.target.address) from None
            else:
                self._reached = True
                return response

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        place = traceparent()
        return (("authorization", f"Bearer {self.target.token}"), *([("traceparent", place)] if place else []))


def _open(target: Target) -> grpc.Channel:
    options: list[tuple[str, Any]] = list(_OPTIONS)
    if target.on_this_machine:
        options.append(("grpc.enable_http_proxy", 0))
    if not target.encrypted:
        return grpc.insecure_channel(target.host_port, options=options)
    certificates = None
    if target.ca_file:
        try:
            certificates = Path(target.ca_file).read_bytes()
        except OSError as error:
            raise ConfigurationError(f"QONDUIT_CA_FILE cannot be read: {error}") from error
    return grpc.secure_channel(target.host_port, grpc.ssl_channel_credentials(certificates), options=options)
