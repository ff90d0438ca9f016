"""The book of QPU charges, on a real database."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gateway_book import NOW, event
from prometheus_client import CollectorRegistry
from qonduit_gateway.database import charge_rows, migrate
from qonduit_gateway.instruments import Instruments
from qonduit_gateway.qpu_book import QpuBook
from qonduit_service_kit.messages import EventKind, QpuCharged, Stage, StageUsage

if TYPE_CHECKING:
    from gateway_book import Book


class Charges:
    """A book of charges and what its metric counted."""

    def __init__(self, book: Book, *, by_user: bool = False) -> None:
        self._book = book
        self._registry = CollectorRegistry()
        self.charges = QpuBook(book.database, Instruments(self._registry, by_user=by_user))

    async def total(self, job_id: str) -> float:
        return await self._book.database.read(lambda connection: charge_rows.total(connection, job_id))

    @property
    def counted(self) -> float:
        labels = {"stage": Stage.EXECUTING_QPU.value}
        return self._registry.get_sample_value("qonduit_job_stage_qpu_seconds_total", labels) or 0.0

    def of_user(self, user: str) -> float | None:
        return self._registry.get_sample_value("qonduit_user_qpu_seconds_total", {"user": user})


def charge(job_id: str, charge_id: str = "q1", qpu_seconds: float = 1.5) -> QpuCharged:
    return QpuCharged(charge_id, job_id, "ada", "ibm_torino", "job", qpu_seconds, NOW)


async def test_a_user_is_a_label_only_where_the_operator_wants_it(book: Book) -> None:
    plain, by_user = Charges(book), Charges(book, by_user=True)
    await plain.charges.take(charge(await book.job()))
    assert plain.of_user("ada") is None
    await by_user.charges.take(charge(await book.job(), "q2"))
    assert by_user.of_user("ada") == 1.5


async def test_a_charge_is_booked_once_however_often_it_is_told(book: Book) -> None:
    made, job_id = Charges(book), await book.job()
    await asyncio.gather(*(made.charges.take(charge(job_id)) for _ in range(5)))
    await made.charges.take(charge(job_id, "session-1", 0.25))
    assert await made.total(job_id) == 1.75
    assert made.counted == 1.75


async def test_a_charge_may_come_after_the_end_of_its_job(book: Book) -> None:
    made, job_id = Charges(book), await book.job()
    usage = (StageUsage(Stage.EXECUTING_QPU, 2.0, 0.5, 9.0),)
    await book.ledger.apply(event(job_id, 0, EventKind.FINISHED, usage=usage))
    assert await made.total(job_id) == 0, "a worker's word is no charge"
    await made.charges.take(charge(job_id))
    assert await made.total(job_id) == 1.5


async def test_a_charge_for_a_job_that_is_not_in_the_book_is_dropped(book: Book) -> None:
    made = Charges(book)
    await made.charges.take(charge("no-such-job"))
    assert (await made.total("no-such-job"), made.counted) == (0, 0)


async def test_bills_from_before_there_were_charges_keep_their_seconds(book: Book) -> None:
    from alembic import command  # noqa: PLC0415 - As migrate does.

    used, unused = await book.job(), await book.job()
    for sequence, seconds in enumerate((0.5, 2.0)):
        usage = (StageUsage(Stage.EXECUTING_QPU, 1.0, 0.0, seconds), StageUsage(Stage.NONE, 1.0, 0.25))
        await book.ledger.apply(event(used, sequence, EventKind.USAGE, usage=usage))
    await book.ledger.apply(event(unused, 0, EventKind.USAGE, usage=(StageUsage(Stage.NONE, 1.0, 0.25),)))

    def back_and_forth(connection: object) -> None:
        settings = migrate.config()
        settings.attributes["connection"] = connection
        command.downgrade(settings, "0002")
        command.upgrade(settings, "head")

    await book.database.write(back_and_forth)
    made = Charges(book)
    assert (await made.total(used), await made.total(unused)) == (2.0, 0)
    await made.charges.take(charge(used, "q9", 1.0))
    assert await made.total(used) == 3.0
