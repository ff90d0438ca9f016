"""One connection that is kept up for ever: made, set up, watched, and made again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import structlog

from qonduit_service_kit.bus.amqp import CONNECT_TIMEOUT_S, Connection
from qonduit_service_kit.bus.backoff import backoff_s
from qonduit_service_kit.bus.errors import BusClosedError, BusError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from qonduit_service_kit.bus.metrics import BusMetrics

_SETUP_TIMEOUT_S = 30.0
_REMIND_EVERY = 10
_log = structlog.get_logger("bus")


class Link:
    """Keeps one connection; `set_up` runs on each new one before it counts as up, `down` after each loss."""

    def __init__(
        self,
        url: str,
        *,
        owner: str,
        role: str,
        set_up: Callable[[Connection], Awaitable[None]],
        down: Callable[[], None],
        metrics: BusMetrics,
    ) -> None:
        self._url = url
        self._owner = owner
        self._role = role
        self._set_up = set_up
        self._down = down
        self._metrics = metrics
        self._task: asyncio.Task[None] | None = None
        self._up = asyncio.Event()
        self._connection: Connection | None = None
        self._made = 0
        self._stopped = False
        self.last_error = ""

    @property
    def connected(self) -> bool:
        """Whether the connection is up and set up."""
        return self._up.is_set() and not self._stopped

    @property
    def made(self) -> int:
        """How many connections were set up so far."""
        return self._made

    @property
    def connection(self) -> Connection | None:
        """The connection while it is up."""
        return self._connection if self.connected else None

    @property
    def where(self) -> str:
        """Host and port, without credentials."""
        parts = urlsplit(self._url)
        return f"{parts.hostname}:{parts.port or (5671 if parts.scheme == 'amqps' else 5672)}"

    def start(self) -> None:
        """Begin to connect."""
        if self._task is None:
            self._task = asyncio.create_task(self._keep(), name=f"bus link {self._owner}/{self._role}")

    async def wait_up(self) -> None:
        """Return once connected; BusClosedError once stopped."""
        await self._up.wait()
        if self._stopped:
            raise BusClosedError("the bus is stopped")

    async def stop(self) -> None:
        """Close the connection and try no more; safe to call twice."""
        self._stopped = True
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        self._up.set()  # Whoever waits for the connection learns that there will be none.

    async def _keep(self) -> None:
        failures = 0
        while True:
            try:
                connection = await self._connect()
                await self._use(connection)
                failures = 0
            except (BusError, OSError, TimeoutError) as error:
                self._note_failure(str(error) or type(error).__name__, failures)
                failures += 1
            except Exception:  # noqa: BLE001 - a fault of ours must not leave the service without a bus.
                _log.exception("the bus failed, connecting again", link=self._role)
                failures += 1
            await asyncio.sleep(backoff_s(failures))

    async def _connect(self) -> Connection:
        async with asyncio.timeout(CONNECT_TIMEOUT_S * 2):
            return await Connection.open(self._url, name=f"{self._owner}/{self._role}")

    async def _use(self, connection: Connection) -> None:
        """Run one connection to its end; raise if it could not be set up."""
        self._connection = connection
        try:
            async with asyncio.timeout(_SETUP_TIMEOUT_S):
                await self._set_up(connection)
            self._note_up()
            reason = await asyncio.shield(connection.closed)
            _log.warning("lost RabbitMQ, connecting again", link=self._role, at=self.where, reason=str(reason))
        finally:
            self._up.clear()
            self._connection = None
            self._down()
            await connection.close()

    def _note_up(self) -> None:
        self._made += 1
        self.last_error = ""
        self._metrics.connects.labels(self._role).inc()
        if self._made > 1:
            self._metrics.reconnects.labels(self._role).inc()
        self._up.set()
        _log.info("connected to RabbitMQ", link=self._role, at=self.where)

    def _note_failure(self, reason: str, failures: int) -> None:
        if reason != self.last_error or failures % _REMIND_EVERY == 0:
            _log.warning("cannot connect to RabbitMQ, trying again", link=self._role, at=self.where, reason=reason)
        self.last_error = reason
