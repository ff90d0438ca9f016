"""How many jobs a user may have, exactly; and what else of their limits a job meets on its way in."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from gateway_book import KEY, asked_for, event
from qonduit_gateway.database import job_rows, user_rows
from qonduit_gateway.database.engine import Database
from qonduit_gateway.database.idempotency_rows import Claim
from qonduit_gateway.database.schema import jobs
from qonduit_gateway.ledger import ActiveJobLimitError, JobLedger
from qonduit_gateway.outgoing import OutgoingFactory
from qonduit_service_kit.messages import AttemptLost, EventKind, JobSubmitted, Shape
from qonduit_service_kit.tickets import TicketSigner
from sqlalchemy import insert, select
from sqlalchemy.event import listen

if TYPE_CHECKING:
    from gateway_book import Book
    from qonduit_gateway.jobs.model import Job, UserLimit
    from sqlalchemy import Connection


async def set_limit(book: Book, owner: str = "ada", **limit: Any) -> None:
    def change(before: UserLimit) -> UserLimit:
        return replace(before, **limit)

    await book.database.write(lambda connection: user_rows.change_limit(connection, owner, change))


async def active(book: Book, owner: str = "ada") -> int:
    return await book.database.read(lambda connection: job_rows.count_active(connection, owner))


def ledger_on(database: Database, *, most: int) -> JobLedger:
    outgoing = OutgoingFactory(TicketSigner(KEY), limit=Shape(16_000, 2**35), clock=lambda: 0.0)
    return JobLedger(
        database, outgoing, lambda _: None, max_attempts=3, tell_again_s=10, limit_active_jobs=most, clock=lambda: 0.0
    )


async def test_two_gateways_together_accept_exactly_as_many_as_may_be(book: Book, database_url: str) -> None:
    await set_limit(book, active_jobs=7)
    await book.user("grace")
    other = Database(database_url, busy_timeout_s=60)
    ledgers = (book.ledger, ledger_on(other, most=1))
    mine = [await book.submission() for _ in range(24)]
    hers = [await book.submission("grace") for _ in range(3)]
    answers = await asyncio.gather(
        *(ledgers[number % 2].submit(asked_for(each), None) for number, each in enumerate(mine)),
        *(book.ledger.submit(asked_for(each), None) for each in hers),
        return_exceptions=True,
    )
    await other.close()
    refused = [answer for answer in answers if isinstance(answer, BaseException)]
    assert {type(error) for error in refused} == {ActiveJobLimitError}
    assert {(error.active, error.most) for error in refused if isinstance(error, ActiveJobLimitError)} == {(7, 7)}
    assert (await active(book), len(refused), await active(book, "grace")) == (7, 17, 3)
    assert len([message for message in await book.outbox() if isinstance(message, JobSubmitted)]) == 10


async def test_a_job_that_ends_makes_room_and_one_that_is_tried_again_does_not(book: Book) -> None:
    await set_limit(book, active_jobs=2)
    ended, tried = await book.job(), await book.job()
    await book.ledger.apply(event(tried, 0, EventKind.RUNNING))
    await book.ledger.lost(AttemptLost(tried, 1, "w1", "gone"))
    await book.ledger.apply(event(ended, 0, EventKind.RUNNING))
    await book.ledger.cancel(ended)
    with pytest.raises(ActiveJobLimitError):
        await book.job()
    await book.ledger.apply(event(ended, 1, EventKind.FINISHED))
    await book.job()
    with pytest.raises(ActiveJobLimitError):
        await book.job()


async def test_a_repeated_run_is_no_new_job_and_never_refused(book: Book) -> None:
    await set_limit(book, active_jobs=1)
    first, second = await book.submission(), await book.submission()

    async def run(submission: Any, key: str) -> tuple[Job, bool]:
        return await book.ledger.submit(asked_for(submission), Claim("ada", key, "hash", submission.job_id))

    job, created = await run(first, "first")
    assert created
    with pytest.raises(ActiveJobLimitError):
        await run(second, "second")
    again = await book.submission()
    repeated, created = await run(again, "first")
    assert (repeated.job_id, created) == (job.job_id, False)
    await book.ledger.cancel(first.job_id)
    assert (await run(second, "second"))[1], "a refusal must not have used the key up"


async def test_a_users_own_limit_goes_before_the_servers(book: Book) -> None:
    ledger = ledger_on(book.database, most=1)
    await ledger.submit(asked_for(await book.submission()), None)
    with pytest.raises(ActiveJobLimitError):
        await ledger.submit(asked_for(await book.submission()), None)
    await set_limit(book, active_jobs=2)
    await ledger.submit(asked_for(await book.submission()), None)
    with pytest.raises(ActiveJobLimitError, match="2 jobs are not over, of at most 2"):
        await ledger.submit(asked_for(await book.submission()), None)
    await set_limit(book, active_jobs=0)
    for _ in range(3):
        await ledger.submit(asked_for(await book.submission()), None)


async def test_counting_looks_at_no_job_that_is_over(book: Book) -> None:
    job_id = await book.job()
    await book.ledger.cancel(job_id)
    await book.user("grace")
    sent: list[tuple[str, Any]] = []

    def plan(connection: Connection) -> str:
        (over,) = connection.execute(select(jobs)).mappings()
        mine = [{**over, "job_id": f"over-{number}"} for number in range(1000)]
        others = [{**each, "job_id": f"{each['job_id']}-others", "owner": "grace"} for each in mine]
        active = [{**each, "job_id": f"{each['job_id']}-active", "ended_at": None} for each in others]
        connection.execute(insert(jobs), mine + others + active)
        connection.exec_driver_sql("ANALYZE jobs")
        listen(connection, "before_cursor_execute", lambda *call: sent.append((call[2], call[3])))
        assert job_rows.count_active(connection, "ada") == 0
        ((counting, values),) = sent
        explain = "EXPLAIN" if connection.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN"
        return "\n".join(str(tuple(row)) for row in connection.exec_driver_sql(f"{explain} {counting}", values))

    found = await book.database.write(plan)
    assert re.search(r"Index Cond: .*ended_at IS NULL|owner=\? AND ended_at=\?", found), found


async def test_the_limit_of_running_jobs_goes_to_the_scheduler_as_it_is_when_a_job_is_accepted(book: Book) -> None:
    submission = await book.submission()
    await set_limit(book, running_jobs=3)
    await book.ledger.submit(asked_for(submission), None)
    await set_limit(book, running_jobs=0)
    await book.ledger.lost(AttemptLost(submission.job_id, 1, "w1", "gone"))
    specs = [message.spec for message in await book.outbox() if isinstance(message, JobSubmitted)]
    assert [(spec.attempt, spec.user_running_jobs) for spec in specs] == [(1, 3), (2, None)]
