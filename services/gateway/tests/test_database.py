"""The book of jobs and everything else that is kept, on a real database."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from gateway_book import KEY, NOW, asked_for, event, job_row
from qonduit_gateway.database import (
    dead_letter_rows,
    function_rows,
    history_rows,
    job_rows,
    migrate,
    outbox_rows,
    term_rows,
    user_rows,
)
from qonduit_gateway.database.dead_letter_rows import DeadLetter
from qonduit_gateway.database.engine import Database, DatabaseUnavailableError, UnstorableError, parse_url
from qonduit_gateway.database.idempotency_rows import Claim
from qonduit_gateway.database.outbox_rows import Lane
from qonduit_gateway.database.schema import metadata
from qonduit_gateway.functions.model import FunctionName, FunctionSpec, version_digest
from qonduit_gateway.jobs.model import JobState
from qonduit_gateway.jobs.transitions import Verdict
from qonduit_gateway.ledger import KeyReusedError
from qonduit_service_kit.messages import (
    Address,
    AttemptLost,
    EventKind,
    JobSubmitted,
    Reason,
    Stage,
    StageUsage,
)
from qonduit_service_kit.tickets import TicketSigner
from sqlalchemy.exc import DBAPIError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from gateway_book import Book
    from sqlalchemy import Connection


async def test_migrations_make_exactly_the_tables_of_the_schema(book: Book) -> None:
    script = ScriptDirectory.from_config(migrate.config())
    assert script.get_current_head() == migrate.HEAD
    assert not await book.database.write(migrate.upgrade)
    differences = await book.database.write(
        lambda connection: compare_metadata(MigrationContext.configure(connection), metadata)
    )
    assert differences == []


async def test_a_database_of_a_newer_version_is_refused(book: Book) -> None:
    await book.database.write(
        lambda connection: connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    )
    with pytest.raises(RuntimeError, match="9999"):
        await book.database.write(migrate.upgrade)


async def test_an_accepted_job_and_its_announcement_are_one(book: Book) -> None:
    job_id = await book.job()

    announced = await book.outbox()

    assert [message.spec.job_id for message in announced] == [job_id]
    spec = announced[0].spec
    assert (spec.environment, spec.dependencies, spec.entrypoint) == ({"A": "b"}, ("numpy",), "program.py")
    ticket = TicketSigner(KEY).verify(spec.storage_ticket)
    assert (ticket.user, ticket.write_space, ticket.log, ticket.service) == ("ada", "users/ada", job_id, "")
    assert await book.statuses(job_id) == ["QUEUED"]
    assert book.told[-1].before is None
    assert (spec.qpu_budget_s, spec.user_qpu_budget_s) == (None, None)


async def test_budgets_go_with_each_attempt_as_they_are_then(book: Book) -> None:
    submission = replace(await book.submission(), qpu_budget_s=60.0)
    await book.ledger.submit(asked_for(submission), None)

    async def set_limit(qpu_seconds: float) -> None:
        await book.database.write(
            lambda connection: user_rows.change_limit(
                connection, "ada", lambda before: replace(before, qpu_seconds=qpu_seconds)
            )
        )

    for attempt, qpu_seconds in ((1, 600.0), (2, 0.0)):
        await set_limit(qpu_seconds)
        await book.ledger.lost(AttemptLost(submission.job_id, attempt, "w1", "gone"))
    specs = [message.spec for message in await book.outbox() if isinstance(message, JobSubmitted)]
    assert [(spec.attempt, spec.qpu_budget_s, spec.user_qpu_budget_s) for spec in specs] == [
        (1, 60.0, None),
        (2, 60.0, 600.0),
        (3, 60.0, None),
    ]


async def test_one_key_is_one_job_however_many_ask_at_once(book: Book) -> None:
    submissions = [await book.submission() for _ in range(20)]

    answers = await asyncio.gather(
        *(book.ledger.submit(asked_for(each), Claim("ada", "key", "hash", each.job_id)) for each in submissions)
    )

    assert len({job.job_id for job, _ in answers}) == 1
    assert sum(created for _, created in answers) == 1
    assert len(await book.outbox()) == 1
    with pytest.raises(KeyReusedError):
        await book.ledger.submit(asked_for(submissions[0]), Claim("ada", "key", "other", submissions[0].job_id))
    await book.user("grace")
    other = await book.submission("grace")
    assert (await book.ledger.submit(asked_for(other), Claim("grace", "key", "other", other.job_id)))[1]


async def test_duplicates_and_late_events_change_nothing(book: Book) -> None:
    job_id = await book.job()
    events = [
        event(job_id, 0, EventKind.INITIALIZING),
        event(job_id, 2, EventKind.STAGE, stage=Stage.MAPPING),
        event(job_id, 1, EventKind.RUNNING),
        event(job_id, 3, EventKind.FINISHED, result_digest="d" * 64, result_bytes=5),
    ]
    verdicts = [await book.ledger.apply(each) for each in [*events, *events]]

    assert verdicts[:4] == [Verdict.APPLIED, Verdict.APPLIED, Verdict.LATE, Verdict.APPLIED]
    assert verdicts[4:] == [Verdict.IGNORED] * 4
    assert await book.statuses(job_id) == ["QUEUED", "INITIALIZING", "RUNNING", "RUNNING: MAPPING", "DONE"]
    job = await book.database.read(lambda connection: job_rows.get(connection, job_id))
    assert job is not None
    assert (job.progress.state, job.progress.result_bytes, job.progress.worker_id) == (JobState.DONE, 5, "w1")
    assert sum(change.ended for change in book.told) == 1
    logs = await book.database.read(lambda connection: outbox_rows.waiting(connection, Lane.LOG, limit=9))
    assert [row.body.decode() for _, row in logs] == [job_id]


async def test_an_end_with_a_text_that_no_database_keeps_is_applied_all_the_same(book: Book) -> None:
    job_id = await book.job()
    end = event(job_id, 0, EventKind.FINISHED, reason=Reason.PROGRAM_ERROR, text="ValueError: a\0b")
    assert await book.ledger.apply(end) is Verdict.APPLIED
    job = await book.database.read(lambda connection: job_rows.get(connection, job_id))
    assert job is not None
    assert job.progress.error_text == "ValueError: a\N{REPLACEMENT CHARACTER}b"


async def test_a_name_that_no_text_can_be_is_not_found_or_refused(book: Book) -> None:
    with suppress(UnstorableError):
        assert (
            await book.database.read(
                lambda connection: function_rows.find(connection, FunctionName("a\0b", owner="ada"))
            )
            == []
        )


async def test_usage_is_absolute_per_attempt_and_summed_over_attempts(book: Book) -> None:
    job_id = await book.job()
    for sequence, cpu in ((1, 1.0), (3, 5.0), (2, 3.0), (3, 5.0)):
        usage = (StageUsage(Stage.MAPPING, 1.0, cpu, 0.5, int(cpu)),)
        await book.ledger.apply(event(job_id, sequence, EventKind.USAGE, usage=usage))
    await book.ledger.lost(AttemptLost(job_id, 1, "w1", "gone"))
    usage = (StageUsage(Stage.MAPPING, 1.0, 2.0, 0.0, 1),)
    await book.ledger.apply(event(job_id, 0, EventKind.FINISHED, attempt=2, usage=usage))
    await book.ledger.apply(event(job_id, 9, EventKind.USAGE, usage=(StageUsage(Stage.MAPPING, 99, 99, 99, 99),)))

    total = await book.database.read(lambda connection: history_rows.usage(connection, job_id))

    assert total == [StageUsage(Stage.MAPPING, 2.0, 7.0, 0.0, 5)]
    assert next(change.usage for change in book.told if change.ended) == tuple(total)


async def test_a_lost_attempt_is_announced_with_the_next_number(book: Book) -> None:
    job_id = await book.job()
    await book.ledger.apply(event(job_id, 0, EventKind.INITIALIZING))
    await book.ledger.lost(AttemptLost(job_id, 1, "w1", "no heartbeat"))
    await book.ledger.lost(AttemptLost(job_id, 1, "w1", "no heartbeat"))

    attempts = [message.spec.attempt for message in await book.outbox() if isinstance(message, JobSubmitted)]

    assert attempts == [1, 2]
    assert await book.statuses(job_id) == ["QUEUED", "INITIALIZING", "QUEUED"]


async def test_a_fenced_off_attempt_is_told_once_in_a_while(book: Book) -> None:
    job_id = await book.job()
    await book.ledger.lost(AttemptLost(job_id, 1, "", "gone"))
    before = len(await book.outbox())
    for sequence in range(5):
        assert await book.ledger.apply(event(job_id, sequence, EventKind.STAGE)) is Verdict.STALE
    stops = (await book.outbox())[before:]
    assert [(stop.attempt, stop.cause) for stop in stops] == [(1, Reason.WORKER_LOST)]
    book.now += 60
    await book.ledger.apply(event(job_id, 9, EventKind.STAGE))
    assert len(await book.outbox()) == before + 2
    unknown = event("no-such-job", 0, EventKind.RUNNING)
    assert await book.ledger.apply(unknown) is Verdict.STALE
    assert (await book.outbox())[-1].job_id == "no-such-job"


async def test_cancels_and_ends_that_race_make_one_end(book: Book) -> None:
    job_ids = [await book.job() for _ in range(10)]
    for job_id in job_ids:
        await book.ledger.apply(event(job_id, 0, EventKind.RUNNING))
    for job_id in job_ids:
        await asyncio.gather(
            book.ledger.cancel(job_id),
            book.ledger.apply(event(job_id, 1, EventKind.FINISHED)),
            book.ledger.lost(AttemptLost(job_id, 1, "w1", "gone")),
            book.ledger.cancel(job_id),
        )
    for job_id in job_ids:
        ends = [change for change in book.told if change.job.job_id == job_id and change.ended]
        job = await book.database.read(job_row(job_id))
        assert job is not None
        assert len(ends) == int(job.progress.state.terminal) == 1


async def test_what_is_due_is_found_and_counted(book: Book) -> None:
    job_id = await book.job()

    def due(at: float) -> Any:
        return lambda connection: job_rows.due(connection, JobState.QUEUED, at, limit=10)

    assert await book.database.read(due(NOW + 9)) == []
    found = await book.database.read(due(NOW + 10))
    assert [(job.job_id, count) for job, count in found] == [(job_id, 1)]
    await book.database.write(lambda connection: job_rows.mark_told(connection, job_id, tell_again_at=NOW + 99))
    assert await book.database.read(due(NOW + 98)) == []


async def test_terms_rise_strictly(book: Book) -> None:
    terms = await asyncio.gather(
        *(book.database.write(lambda connection: term_rows.begin(connection, "s", at=NOW)) for _ in range(10))
    )
    assert len(set(terms)) == 10
    later = await book.database.write(lambda connection: term_rows.begin(connection, "s", at=NOW))
    assert later > max(terms)


async def test_dead_letters_are_kept_once(book: Book) -> None:
    letter = DeadLetter("f" * 64, "q", Address("x", "k"), "t/1", "m", "why", b"\x00\xff", NOW)
    kept = [await book.database.write(lambda connection: dead_letter_rows.keep(connection, letter)) for _ in range(2)]
    assert kept == [True, False]
    page = await book.database.read(lambda connection: dead_letter_rows.page(connection, size=10))
    assert [(each.body, each.address) for each in page] == [(b"\x00\xff", Address("x", "k"))]


async def test_functions_are_paged_newest_first(book: Book) -> None:
    for title in ("a", "b", "c"):
        book.now += 1
        await book.submission(title=title)
    book.now += 1
    await book.submission(title="a")
    mine = function_rows.owned_by("ada")
    first = await book.database.read(lambda connection: function_rows.page(connection, mine, size=2))
    rest = await book.database.read(
        lambda connection: function_rows.page(connection, mine, size=2, before=first[-1][1])
    )
    assert [version.spec.title for version, _ in [*first, *rest]] == ["a", "c", "b"]


@pytest.mark.parametrize("step", [1.0, 0.0, -1.0])
async def test_versions_are_in_the_order_of_their_last_uploads_whatever_clocks_say(book: Book, step: float) -> None:
    name = FunctionName("f", owner="ada")

    async def upload(label: str) -> bool:
        book.now += step
        spec = FunctionSpec("f", "program.py", version_label=label)
        kept = (name, spec, version_digest(spec, "a" * 64), ("a" * 64, 10))
        return await book.database.write(lambda connection: function_rows.store(connection, *kept, at=book.now)[1])

    assert [await upload(label) for label in "abcab"] == [True, True, True, False, False]
    found, before = [], None
    while page := await book.database.read(
        lambda connection, before=before: function_rows.versions_page(connection, name, size=2, before=before)
    ):
        found += page
        before = (page[-1].created_at, page[-1].version_id)
    assert [version.spec.version_label for version in found] == ["b", "a", "c"]
    assert [version.aliases for version in found] == [("latest",), (), ()]


async def test_a_transaction_that_fails_leaves_nothing(book: Book) -> None:
    submission = await book.submission()

    def fail(connection: Any) -> None:
        user_rows.create(connection, "eve", administrator=True, token_digest="t", at=NOW)
        raise LookupError

    with pytest.raises(LookupError):
        await book.database.write(fail)
    assert [user.name for user in await book.database.read(user_rows.all_users)] == ["ada"]
    assert (await book.ledger.submit(asked_for(submission), None))[1]


async def test_parts_of_one_transaction_hold_or_fail_by_themselves(book: Book) -> None:
    transactions: list[object] = []

    def make(name: str) -> Callable[[Connection], bool]:
        def work(connection: Connection) -> bool:
            transactions.append(connection.get_transaction())
            made = user_rows.create(connection, name, administrator=False, token_digest=name, at=NOW)
            if name == "mallory":
                raise LookupError(name)
            return made

        return work

    async with _writer_held(book):
        asked = [asyncio.create_task(book.database.write(make(name))) for name in ("bob", "mallory", "ada", "carol")]
        await asyncio.sleep(0)  # So that all four are asked for.
    bob, mallory, ada, carol = await asyncio.gather(*asked, return_exceptions=True)
    assert (bob, ada, carol) == (True, False, True)
    assert isinstance(mallory, LookupError)
    assert len(transactions) == 4
    assert len(set(map(id, transactions))) == 1
    assert [user.name for user in await book.database.read(user_rows.all_users)] == ["ada", "bob", "carol"]


async def test_a_transaction_that_is_lost_is_lost_for_all_its_parts(book: Book) -> None:
    def make(connection: Connection) -> bool:
        return user_rows.create(connection, "bob", administrator=False, token_digest="t", at=NOW)

    def lose(connection: Connection) -> None:
        connection.exec_driver_sql("ROLLBACK")

    async with _writer_held(book):
        asked = [asyncio.create_task(book.database.write(work)) for work in (make, lose, make)]
        await asyncio.sleep(0)
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(each, DatabaseUnavailableError | DBAPIError) for each in outcomes), outcomes
    assert [user.name for user in await book.database.read(user_rows.all_users)] == ["ada"]
    assert await book.database.write(make)


async def test_what_has_not_begun_is_dropped_with_its_caller(book: Book) -> None:
    begun: list[str] = []
    async with _writer_held(book):
        dropped = asyncio.create_task(book.database.write(lambda _: begun.append("dropped")))
        kept = asyncio.create_task(book.database.write(lambda _: begun.append("kept")))
        await asyncio.sleep(0)
        dropped.cancel()
        await asyncio.wait([dropped])
    await kept
    assert begun == ["kept"]


@asynccontextmanager
async def _writer_held(book: Book) -> AsyncIterator[None]:
    """Keep the thread that writes busy, so that what is asked for meanwhile waits."""
    begun, go_on = threading.Event(), threading.Event()

    def hold(_connection: Connection) -> None:
        begun.set()
        go_on.wait(100)

    holding = asyncio.create_task(book.database.write(hold))
    await asyncio.to_thread(begun.wait, 100)
    yield
    go_on.set()
    await holding


async def test_a_change_is_told_though_its_caller_went_away(book: Book) -> None:
    submission = await book.submission()
    caller = asyncio.create_task(book.ledger.submit(asked_for(submission), None))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await book.database.write(lambda connection: connection.exec_driver_sql("SELECT 1").scalar())
    async with asyncio.timeout(60):
        while not book.told:  # noqa: ASYNC110 - the caller is gone, and with it whoever would be told.
            await asyncio.sleep(0.001)
    assert book.told[0].job.job_id == submission.job_id


async def test_a_database_that_is_not_there_is_unavailable(tmp_path: Any) -> None:
    missing = Database(f"sqlite:///{tmp_path}/no/such/folder/x.db", busy_timeout_s=0.2)
    with pytest.raises(DatabaseUnavailableError):
        await missing.read(user_rows.all_users)
    await missing.close()


def test_urls_of_other_databases_are_refused() -> None:
    assert parse_url("postgresql://u@h/d").drivername == "postgresql+psycopg"
    with pytest.raises(ValueError, match="mysql"):
        parse_url("mysql://u@h/d")
