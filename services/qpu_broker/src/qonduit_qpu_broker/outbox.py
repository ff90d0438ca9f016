"""Publishes transitions, in order for each QPU job, and charges, until the bus has confirmed them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from qonduit_service_kit.bus import BusClosedError, UnroutableError
from qonduit_service_kit.logs import get_logger
from qonduit_service_kit.messages import GATEWAY

from qonduit_qpu_broker.ledger import charges, programs
from qonduit_qpu_broker.ledger.thread import LedgerUnavailableError

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
            try:
                stuck = await self._tell()
            except LedgerUnavailableError as error:
                _log.warning("waiting for the ledger", reason=str(error))
                stuck = True
            try:
                async with asyncio.timeout(_RETRY_S if stuck else None):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _tell(self) -> bool:
        """Publish all that is due; whether something has to be tried again."""
        stuck = await self._tell_charges()
        return await self._tell_transitions() or stuck

    async def _tell_charges(self) -> bool:
        """Tell the gateway what was charged; it books each once, so that one told twice changes nothing."""
        while batch := await self._ledger.run(lambda ledger: charges.due(ledger, _BATCH)):
            try:
                for charge in batch:
                    await self._bus.publish(GATEWAY, charge)
            except (UnroutableError, BusClosedError):
                return True  # No gateway has declared its inbox yet, or we are stopping.
            await self._ledger.run(lambda ledger, told=batch: charges.published(ledger, told))  # type: ignore[misc]
        return False

    async def _tell_transitions(self) -> bool:
        """Publish all transitions, past what is stuck; whether something has to be tried again."""
        closed: set[Address] = set()
        stuck, after = False, 0
        while True:
            batch = await self._ledger.run(lambda ledger, after=after: programs.due(ledger, _BATCH, after=after))  # type: ignore[misc]
            done = await self._publish(batch, closed)
            if done:
                await self._ledger.run(lambda ledger, done=done: programs.published(ledger, done))  # type: ignore[misc]
            stuck = stuck or len(done) < len(batch)
            if len(batch) < _BATCH:
                return stuck
            after = batch[-1].position

    async def _publish(self, batch: tuple[Due, ...], closed: set[Address]) -> list[Due]:
        """Publish what can be and return it; an address that takes nothing is left for later."""
        done: list[Due] = []
        for due in batch:
            if due.to in closed and not due.program_ended:
                continue
            try:
                if due.to not in closed:
                    await self._bus.publish(due.to, due.transition)
            except UnroutableError:
                closed.add(due.to)
            except BusClosedError:
                _log.info("stopping with transitions to tell", left=len(batch) - len(done))
                return done
            # Where nobody listens, the worker is gone, or has not declared its inbox again yet. Once the attempt is
            # over, nobody asks any more; a new one that takes the job over is told from the beginning.
            if due.to not in closed or due.program_ended:
                done.append(due)
        return done
