"""Metrics of a process and the port they are read from."""

from __future__ import annotations

import asyncio
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING
from weakref import WeakSet

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    Info,
    PlatformCollector,
    ProcessCollector,
    start_http_server,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

REGISTRY = CollectorRegistry(auto_describe=True)
"""The registry of this process: everything in it is served by MetricsServer."""
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)


_built: WeakSet[CollectorRegistry] = WeakSet()


def build_info(service: str, *, registry: CollectorRegistry = REGISTRY) -> None:
    """Publish `qonduit_build_info` of a service, once; its distribution is named `qonduit-<service>`."""
    if registry in _built:
        return
    _built.add(registry)
    try:
        release = version(f"qonduit-{service.replace('_', '-')}")
    except PackageNotFoundError:
        release = "unknown"
    info = Info("qonduit_build", "Version of the service and of its Python.", registry=registry)
    info.info({"service": service, "version": release, "python": platform.python_version()})


class MetricsServer:
    """Serves /metrics on a port of its own; port 0 takes a free one, told by `port`."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0, *, registry: CollectorRegistry = REGISTRY) -> None:
        self._host = host
        self._wanted = port
        self._registry = registry
        self._server: object | None = None
        self._thread: object | None = None
        self.port = 0

    @property
    def ports(self) -> Mapping[str, int]:
        """The port, for the ready file."""
        return {"metrics_port": self.port}

    async def start(self) -> None:
        """Begin to serve; OSError, naming the address, if the port is taken."""
        try:
            server, thread = start_http_server(self._wanted, addr=self._host, registry=self._registry)
        except OSError as error:
            raise OSError(
                error.errno, f"cannot serve metrics on {self._host}:{self._wanted}: {error.strerror}"
            ) from error
        self._server, self._thread = server, thread
        self.port = server.server_port

    async def stop(self) -> None:
        """End; safe to call twice."""
        server, self._server = self._server, None
        if server is not None:
            await asyncio.to_thread(_end, server, self._thread)


def _end(server: object, thread: object) -> None:
    server.shutdown()  # type: ignore[attr-defined]
    server.server_close()  # type: ignore[attr-defined]
    thread.join()  # type: ignore[attr-defined]
