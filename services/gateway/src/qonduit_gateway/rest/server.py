"""An HTTP server as a part of the gateway."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

import uvicorn
from qonduit_service_kit.rpc import STOP_GRACE_S, check_exposure

from qonduit_gateway.rest.protocol import HttpProtocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from starlette.types import ASGIApp

_BACKLOG = 1024
_DATE_S = 1.0


class _Server(uvicorn.Server):
    """Leaves signals to the service that it is a part of, and has nothing to do while nothing comes."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ending = asyncio.Event()

    def end(self) -> None:
        """Have it take no new calls, and end."""
        self.should_exit = True
        self._ending.set()

    async def main_loop(self) -> None:
        """Keep the answers' date; uvicorn's own looks ten times a second whether it should end."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_DATE_S):
                    await self._ending.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class RestServer:
    """Serves an application by HTTP, or HTTPS with a certificate; port 0 takes a free one, told by `ports`.

    It refuses to listen beyond loopback without TLS, as the gRPC server does. `make` is called once, at the start,
    and `before_stop` has what waits answered.
    """

    def __init__(
        self,
        make: Callable[[], ASGIApp],
        *,
        host: str,
        port: int,
        tls_cert: Path | None = None,
        tls_key: Path | None = None,
        allow_insecure: bool = False,
        before_stop: Callable[[], None] = lambda: None,
    ) -> None:
        self._make = make
        self._before_stop = before_stop
        self._host = host
        self._wanted = port
        self._tls = (tls_cert, tls_key)
        self._allow_insecure = allow_insecure
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None
        self.port = 0

    @property
    def ports(self) -> Mapping[str, int]:
        """The port, for the ready file."""
        return {"rest_port": self.port}

    async def start(self) -> None:
        """Listen and serve.

        Raises:
            ValueError: It would listen beyond loopback without TLS and without leave to, or has half of a TLS pair.
            OSError: The address cannot be used; the text names it.
        """
        cert, key = self._tls
        check_exposure(self._host, cert, key, allow_insecure=self._allow_insecure)
        listening = self._listen()
        config = uvicorn.Config(
            self._make(),
            http=HttpProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            ssl_certfile=cert,
            ssl_keyfile=key,
            timeout_graceful_shutdown=int(STOP_GRACE_S),
        )
        self.port = listening.getsockname()[1]
        self._server = _Server(config)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listening]), name="rest")

    def _listen(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        # Only where the protocol is said does asyncio have small pieces of an answer sent at once, and not 40 ms later.
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((self._host.strip("[]"), self._wanted))
            listening.listen(_BACKLOG)
        except OSError as error:
            listening.close()
            raise OSError(f"cannot listen on {self._host}:{self._wanted}: is the port in use? ({error})") from error
        return listening

    async def stop(self) -> None:
        """Take no new calls and let running ones end within a grace; safe to call twice."""
        server, serving = self._server, self._serving
        self._server = self._serving = None
        if server is not None and serving is not None:
            self._before_stop()
            server.end()
            await asyncio.wait([serving])

    async def failure(self) -> BaseException:
        """Return what ended it by itself."""
        serving = self._serving
        if serving is None:
            raise RuntimeError("the REST server was not started")
        await asyncio.wait([serving])
        return serving.exception() or RuntimeError("the REST server ended by itself")
