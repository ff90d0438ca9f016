"""The outbox on its way: what arrived goes once, stays no longer than it must, and what did not arrive goes again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from qonduit_gateway.database import outbox_rows
from qonduit_gateway.database.outbox_rows import Lane, Outgoing
from qonduit_gateway.relay import OutboxRelay
from qonduit_service_kit.bus import UnroutableError
from qonduit_service_kit.messages import SCHEDULER

if TYPE_CHECKING:
    import pytest
    from gateway_book import Book
    from qonduit_service_kit.messages import Address

DEADLINE_S = 30.0


class Wire:
    """A bus that notes what was sent; it may have nobody who listens for the first few messages."""

    def __init__(self, *, refuse: int = 0) -> None:
        self.sent: list[str] = []
        self.refused = asyncio.Event()
        self._refuse = refuse
        self._changed = asyncio.Condition()

    async def publish_raw(self, to: Address, body: bytes, *, type_name: str, message_id: str) -> None:
        """Take a message."""
        del body, type_name
        if self._refuse:
            self._refuse -= 1
            self.refused.set()
            raise UnroutableError(to)
        async with self._changed:
            self.sent.append(message_id)
            self._changed.notify_all()

    async def has_sent(self, count: int) -> None:
        """Wait for so many messages."""
        async with asyncio.timeout(DEADLINE_S), self._changed:
            await self._changed.wait_for(lambda: len(self.sent) >= count)


def relay_of(book: Book, wire: Any) -> OutboxRelay:
    return OutboxRelay(book.database, wire, wire)


async def empty(book: Book) -> None:
    """Wait until nothing is left in the outbox."""
    async with asyncio.timeout(DEADLINE_S):
        while (await book.database.read(outbox_rows.backlog)).rows:  # noqa: ASYNC110 - nobody tells of it.
            await asyncio.sleep(0.01)


async def test_jobs_in_a_row_are_each_told_once_and_leave_nothing_behind(book: Book) -> None:
    wire = Wire()
    relay = relay_of(book, wire)
    await relay.start()
    jobs = []
    for count in range(1, 8):
        jobs.append(await book.job())
        relay.wake([Lane.BUS])
        await wire.has_sent(count)
    await empty(book)
    await relay.stop()
    assert wire.sent == [f"{job}.submit.1" for job in jobs]


def handing_over(book: Book, relay: OutboxRelay) -> None:
    """Have the book's commits handed to a relay, as in the gateway."""
    book.ledger = book.ledger_telling(lambda change: relay.send(change.outgoing))


async def test_what_is_handed_over_is_sent_in_order_once_and_leaves_nothing_behind(book: Book) -> None:
    wire = Wire()
    relay = relay_of(book, wire)
    await relay.start()
    handing_over(book, relay)
    jobs = [await book.job() for _ in range(120)]
    await wire.has_sent(len(jobs))
    await empty(book)
    await relay.stop()
    assert wire.sent == [f"{job}.submit.1" for job in jobs]


async def test_what_was_handed_over_and_did_not_arrive_is_sent_again_before_what_comes_then(book: Book) -> None:
    wire = Wire(refuse=1)
    relay = relay_of(book, wire)
    await relay.start()
    handing_over(book, relay)
    first = await book.job()
    async with asyncio.timeout(DEADLINE_S):
        await wire.refused.wait()
    second = await book.job()
    await wire.has_sent(2)
    await empty(book)
    await relay.stop()
    assert wire.sent == [f"{first}.submit.1", f"{second}.submit.1"]


async def test_what_was_read_and_sent_before_it_was_handed_over_is_not_sent_again(
    book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qonduit_gateway.relay._KEPT_S", 0.0)
    monkeypatch.setattr("qonduit_gateway.relay._LINGER_S", DEADLINE_S)
    wire = Wire()
    relay = relay_of(book, wire)
    first = await book.job()
    rows = await book.database.read(lambda connection: outbox_rows.waiting(connection, Lane.BUS, limit=10))
    await relay.start()
    await wire.has_sent(1)
    relay.send(rows)
    handing_over(book, relay)
    second = await book.job()
    await wire.has_sent(2)
    await relay.stop()
    assert wire.sent == [f"{first}.submit.1", f"{second}.submit.1"]


async def test_a_relay_that_can_not_send_keeps_little_in_memory_and_sends_all_later(
    book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qonduit_gateway.relay._MOST_HANDED", 5)
    wire = Wire()
    relay = relay_of(book, wire)
    await relay.start()
    handing_over(book, relay)
    async with relay.paused():
        jobs = [await book.job() for _ in range(12)]
    await wire.has_sent(len(jobs))
    await empty(book)
    await relay.stop()
    assert wire.sent == [f"{job}.submit.1" for job in jobs]


async def test_what_another_gateway_wrote_is_sent_with_what_is_handed_over(book: Book) -> None:
    wire = Wire()
    relay = relay_of(book, wire)
    await relay.start()
    others = await book.job()
    handing_over(book, relay)
    own = await book.job()
    relay.wake([Lane.BUS])
    await wire.has_sent(2)
    await empty(book)
    await relay.stop()
    assert sorted(wire.sent) == sorted([f"{others}.submit.1", f"{own}.submit.1"])


async def test_more_than_a_batch_is_sent_in_order_once(book: Book) -> None:
    jobs = [await book.job() for _ in range(120)]
    wire = Wire()
    relay = relay_of(book, wire)
    await relay.start()
    await wire.has_sent(len(jobs))
    await empty(book)
    await relay.stop()
    assert wire.sent == [f"{job}.submit.1" for job in jobs]


async def test_what_nobody_listens_for_is_sent_again_and_what_arrived_beside_it_is_not(book: Book) -> None:
    jobs = [await book.job(), await book.job()]
    wire = Wire(refuse=1)
    relay = relay_of(book, wire)
    await relay.start()
    await wire.has_sent(2)
    await empty(book)
    await relay.stop()
    assert sorted(wire.sent) == sorted(f"{job}.submit.1" for job in jobs)


async def test_rows_that_arrived_do_not_hide_those_behind_them(book: Book) -> None:
    """While rows that were sent wait to be deleted, a full batch of others still fits beside them."""
    wire = Wire()
    relay = relay_of(book, wire)
    await relay.start()
    first = await book.job()
    relay.wake([Lane.BUS])
    await wire.has_sent(1)
    rows = [Outgoing(Lane.BUS, f"message-{number}", SCHEDULER, "any", b"") for number in range(150)]
    await book.database.write(lambda connection: outbox_rows.add(connection, rows, at=book.now))
    relay.wake([Lane.BUS])
    await wire.has_sent(151)
    await empty(book)
    await relay.stop()
    assert wire.sent == [f"{first}.submit.1", *(row.message_id for row in rows)]
