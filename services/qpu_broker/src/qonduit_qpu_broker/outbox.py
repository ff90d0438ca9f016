"""Publishes transitions: in order for each QPU job, until the bus has confirmed them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from qonduit_service_kit.bus import BusClosedError, UnroutableError
from qonduit_service_kit.logs import get_logger

from qonduit_qpu_broker.ledger import programs

if TYPE_CHECKING:
    from qonduit_service_kit.messages import Address

    from qonduit_qpu_broker.ledger.programs import Due
    from qonduit_qpu_broker.ledger.thread import LedgerThread

_log = get_logger("outbox")
_BATCH = 200
_RETRY_S = 2.0


class Publisher(Protocol):
    """The side of the bus that sends."""

    async def publish(
        self,
        to: Address,
        body: object,
        *,
        persistent: bool = True,
        mandatory: bool = True,
        message_id: str | None = None,
    ) -> None:
        """Send and return once confirmed."""


class Outbox:
    """Reads what the ledger still has to tell and tells it; a crash in between tells it again."""

    def __init__(self, ledger: LedgerThread, bus: Publisher) -> None:
        self._ledger = ledger
        self._bus = bus
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Say that there is something new."""
        self._wake.set()

    async def run(self) -> None:
        """Publish for ever."""
        while True:
            self._wake.clear()
            batch = await self._ledger.run(lambda ledger: programs.due(ledger, _BATCH))
            done = await self._publish(batch)
            if done:
                await self._ledger.run(lambda ledger, done=done: programs.published(ledger, done))  # type: ignore[misc]
            stuck = len(done) < len(batch)
            if not stuck and len(batch) == _BATCH:
                continue
            try:
                async with asyncio.timeout(_RETRY_S if stuck else None):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _publish(self, batch: tuple[Due, ...]) -> list[int]:
        """Publish what can be and return its positions; an address that takes nothing is left for later."""
        done: list[int] = []
        closed: set[Address] = set()
        for due in batch:
            if due.to in closed:
                continue
            try:
                await self._bus.publish(due.to, due.transition)
            except UnroutableError:
                # The worker is gone, or has not declared its inbox again yet. Once the program has ended, nobody
                # asks any more; a new attempt is told from the beginning.
                closed.add(due.to)
                if due.program_ended:
                    done.append(due.position)
                continue
            except BusClosedError:
                _log.info("stopping with transitions to tell", left=len(batch) - len(done))
                return done
            done.append(due.position)
        return done
