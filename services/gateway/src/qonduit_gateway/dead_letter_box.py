"""Takes in what could not be handled, and sends it again on request."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from typing import TYPE_CHECKING

from qonduit_service_kit.bus import DEAD_LETTERS, WELL_KNOWN
from qonduit_service_kit.logs import get_logger
from qonduit_service_kit.messages import Address, worker

from qonduit_gateway.database import dead_letter_rows
from qonduit_gateway.database.dead_letter_rows import DeadLetter
from qonduit_gateway.database.engine import DatabaseUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from qonduit_service_kit.bus import Bus, RawDelivery, Subscription

    from qonduit_gateway.database.engine import Database
    from qonduit_gateway.instruments import Instruments

_AGAIN_S = 1.0
_WORKER_INBOX = re.compile(r"worker\.(.+)\.inbox")
_REPLAYED = "qonduit-replayed"
_log = get_logger("dead-letters")


class DeadLetterBox:
    """Consumes the dead letters into the database."""

    def __init__(
        self, bus: Bus, database: Database, instruments: Instruments, clock: Callable[[], float] = time.time
    ) -> None:
        self._bus = bus
        self._database = database
        self._instruments = instruments
        self._clock = clock
        self._subscription: Subscription | None = None

    async def start(self) -> None:
        """Begin to take them in."""
        self._subscription = await self._bus.consume_raw(DEAD_LETTERS, self._take)

    async def stop(self) -> None:
        """Stop; safe to call twice."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await subscription.cancel()

    async def replay(self, letter: DeadLetter) -> None:
        """Send a dead letter to the queue it was in.

        Raises:
            UnroutableError: The queue is gone.
        """
        now = self._clock()
        # The header tells a second death from a second delivery.
        headers = {_REPLAYED: f"{letter.number}@{now}"}
        await self._bus.publish_raw(
            _way_to(letter), letter.body, type_name=letter.type_name, message_id=letter.message_id, headers=headers
        )
        await self._database.write(lambda connection: dead_letter_rows.mark_replayed(connection, letter.number, at=now))

    async def _take(self, delivery: RawDelivery) -> None:
        raw = delivery.raw
        letter = DeadLetter(
            fingerprint=_fingerprint(delivery),
            queue=raw.source_queue,
            address=Address(raw.exchange, raw.key),
            type_name=raw.type_name,
            message_id=raw.message_id,
            reason=raw.reason,
            body=raw.body,
            received_at=self._clock(),
        )
        while True:
            try:
                new = await self._database.write(lambda connection: dead_letter_rows.keep(connection, letter))
            except DatabaseUnavailableError as error:
                _log.warning("a dead letter can't be kept yet", cause=str(error))
                await asyncio.sleep(_AGAIN_S)
            else:
                break
        if new:
            self._instruments.dead_letter(kind_of(letter.queue))
            _log.error("dead letter", queue=letter.queue, message=letter.type_name, reason=letter.reason)


def kind_of(queue: str) -> str:
    """Return what metrics call a queue: one name for all of a kind, of which there is one a job or a worker."""
    return queue if any(queue == known.name for known in WELL_KNOWN) else queue.partition(".")[0]


def _way_to(letter: DeadLetter) -> Address:
    """Return the address that leads to the letter's queue alone; what came by a fanout must not go to all again."""
    for queue in WELL_KNOWN:
        if queue.name == letter.queue:
            return queue.address
    inbox = _WORKER_INBOX.fullmatch(letter.queue)
    return letter.address if inbox is None else worker(inbox[1])


def _fingerprint(delivery: RawDelivery) -> str:
    headers = {name: value for name, value in delivery.headers.items() if name != "x-delivery-count"}
    death = json.dumps([delivery.message_id, delivery.source_queue, headers], default=str, sort_keys=True)
    return hashlib.sha256(death.encode() + b"\0" + delivery.body).hexdigest()
