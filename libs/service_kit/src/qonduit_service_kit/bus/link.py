"""One connection that is kept up for ever: made, set up, watched, and made again."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import structlog

from qonduit_service_kit.bus.amqp import CONNECT_TIMEOUT_S, Connection
from qonduit_service_kit.bus.errors import BusError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from qonduit_service_kit.bus.metrics import BusMetrics

BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 5.0
_SETUP_TIMEOUT_S = 30.0
_log = structlog.get_logger("bus")


def backoff_s(failures: int, *, draw: Callable[[float, float], float] = random.uniform) -> float:
    """Return a wait with full jitter.

    Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    ceiling: float = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** min(failures, 16))
    return draw(0.0, ceiling)


class Link:
    """Keeps one connection; `set_up` runs on each new one before it counts as up, `down` after each loss."""

    def __init__(
        self,
        url: str,
        name: str,
        *,
        set_up: Callable[[Connection], Awaitable[None]],
        down: Callable[[], None],
        metrics: BusMetrics,
    ) -> None:
        self._url = url
        self._name = name
        self._set_up = set_up
        self._down = down
        self._metrics = metrics
        self._task: asyncio.Task[None] | None = None
        self._up = asyncio.Event()
        self._connection: Connection | None = None
        self.last_error = ""

    @property
    def connected(self) -> bool:
        """Whether the connection is up and set up."""
        return self._up.is_set()

    @property
    def connection(self) -> Connection | None:
        """The connection while it is up."""
        return self._connection if self._up.is_set() else None

    @property
    def where(self) -> str:
        """Host and port, without credentials."""
        parts = urlsplit(self._url)
        return f"{parts.hostname}:{parts.port or 5672}"

    def start(self) -> None:
        """Begin to connect."""
        if self._task is None:
            self._task = asyncio.create_task(self._keep(), name=f"bus link {self._name}")

    async def wait_up(self) -> None:
        """Return once connected."""
        await self._up.wait()

    async def stop(self) -> None:
        """Close the connection and try no more; safe to call twice."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _keep(self) -> None:
        failures = 0
        made = 0
        while True:
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S * 2):
                    connection = await Connection.open(self._url, name=self._name)
            except (BusError, OSError, TimeoutError) as error:
                self._note_failure(error, failures)
            else:
                made += 1
                if await self._use(connection, made):
                    failures = 0
            await asyncio.sleep(backoff_s(failures))
            failures += 1

    async def _use(self, connection: Connection, made: int) -> bool:
        """Run one connection to its end; return whether it ever was up."""
        self._connection = connection
        try:
            async with asyncio.timeout(_SETUP_TIMEOUT_S):
                await self._set_up(connection)
            self._metrics.connects.labels(self._name_of_link).inc()
            if made > 1:
                self._metrics.reconnects.labels(self._name_of_link).inc()
            self.last_error = ""
            self._up.set()
            _log.info("connected to RabbitMQ", link=self._name_of_link, at=self.where)
            reason = await asyncio.shield(connection.closed)
            _log.warning("lost RabbitMQ, connecting again", link=self._name_of_link, at=self.where, reason=str(reason))
        except (BusError, OSError, TimeoutError) as error:
            self._note_failure(error, 0)
            return False
        else:
            return True
        finally:
            self._up.clear()
            self._connection = None
            self._down()
            await connection.close()

    @property
    def _name_of_link(self) -> str:
        return self._name.rpartition("/")[2]

    def _note_failure(self, error: BaseException, failures: int) -> None:
        text = str(error) or type(error).__name__
        if text != self.last_error or failures % 10 == 0:
            _log.warning("cannot connect to RabbitMQ, trying again", link=self._name_of_link, at=self.where, reason=text)
        self.last_error = text
