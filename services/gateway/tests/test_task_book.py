"""Tasks and limits as they are kept, on a real database."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from qonduit_gateway.database import (
    task_rows,
    user_rows,
)
from qonduit_gateway.database.engine import Database, DatabaseUnavailableError
from qonduit_gateway.database.schema import job_events, jobs
from qonduit_gateway.jobs.model import UserLimit
from qonduit_gateway.jobs.tasks import TaskTally
from qonduit_gateway.task_book import TaskBook
from qonduit_gateway.watchers import Watchers
from qonduit_service_kit.messages import (
    TASKS_A_PAGE,
    AttemptLost,
    JobSubmitted,
    PackedTasksPage,
    Shape,
    Stage,
    TaskRecord,
    TasksPage,
    TaskState,
)
from qonduit_service_kit.task_pages import packed, unpacked
from sqlalchemy import delete

if TYPE_CHECKING:
    from gateway_book import Book
    from sqlalchemy import Connection


def tasks_page(job_id: str, page: int, revision: int, *states: TaskState, attempt: int = 1) -> PackedTasksPage:
    first = page * TASKS_A_PAGE
    tasks = tuple(
        TaskRecord(f"t{first + place}", "f", state, 1, first + place, Shape(1000, 1), Stage.NONE)
        for place, state in enumerate(states)
    )
    return packed(TasksPage(job_id, attempt, page, revision, tasks))


async def test_a_page_of_tasks_is_kept_unless_a_newer_one_is_there(book: Book) -> None:
    job_id = await book.job()

    async def kept(*pages: PackedTasksPage) -> dict[TaskState, int]:
        await book.database.write(lambda connection: task_rows.store(connection, pages))
        return dict(await book.database.read(lambda connection: task_rows.counts(connection, job_id, 1)))

    running = tasks_page(job_id, 0, 2, TaskState.RUNNING, TaskState.QUEUED)
    assert await kept(running) == {TaskState.RUNNING: 1, TaskState.QUEUED: 1}
    done = tasks_page(job_id, 0, 3, TaskState.DONE, TaskState.ERROR)
    assert await kept(done, tasks_page(job_id, 1, 1, TaskState.DONE)) == {TaskState.DONE: 2, TaskState.ERROR: 1}
    assert await kept(running, done, done) == {TaskState.DONE: 2, TaskState.ERROR: 1}
    pages = await book.database.read(
        lambda connection: list(task_rows.pages(connection, job_id, 1, first=0, limit=9, states=[TaskState.ERROR]))
    )
    assert [[task.number for task in unpacked(page)] for page in pages] == [[0, 1]]


async def test_pages_of_no_job_and_of_no_attempt_are_dropped_and_old_attempts_keep_theirs(book: Book) -> None:
    job_id = await book.job()
    await book.ledger.lost(AttemptLost(job_id, 1, "w1", "gone"))
    pages = [tasks_page(job_id, 0, 1, TaskState.DONE, attempt=attempt) for attempt in (1, 2, 3)]
    pages.append(tasks_page(job_id, 1, 1, TaskState.QUEUED, attempt=2))
    attempts = await book.database.write(
        lambda connection: task_rows.store(connection, [*pages, tasks_page("no-such-job", 0, 1, TaskState.DONE)])
    )
    assert attempts == {job_id: 2}
    counted = await book.database.read(
        lambda connection: [dict(task_rows.counts(connection, job_id, attempt)) for attempt in (1, 2, 3)]
    )
    assert counted == [{TaskState.DONE: 1}, {TaskState.DONE: 1, TaskState.QUEUED: 1}, {}]
    present = await book.database.read(lambda connection: task_rows.present_counts(connection, [job_id, "other"]))
    assert present == {job_id: counted[1]}


async def test_tasks_go_with_their_job(book: Book) -> None:
    job_id = await book.job()
    page = tasks_page(job_id, 0, 1, TaskState.DONE)
    await book.database.write(lambda connection: task_rows.store(connection, [page]))

    def forget(connection: Connection) -> None:
        connection.execute(delete(job_events).where(job_events.c.job_id == job_id))
        connection.execute(delete(jobs).where(jobs.c.job_id == job_id))

    await book.database.write(forget)
    assert await book.database.read(lambda connection: task_rows.counts(connection, job_id, 1)) == {}


async def test_pages_that_come_together_are_committed_together_and_told_once(book: Book) -> None:
    watchers = Watchers()
    tasks = TaskBook(book.database, watchers)
    job_id = await book.job()
    newest = tasks_page(job_id, 0, 9, TaskState.DONE)
    pages = [tasks_page(job_id, page, 1, *[TaskState.DONE] * TASKS_A_PAGE) for page in range(1, 50)]
    writes = _count_writes(book.database)
    with watchers.watch(job_id) as watch:
        repeated = [newest, tasks_page(job_id, 0, 8, TaskState.QUEUED), newest]
        taken = asyncio.gather(*map(tasks.take, [*repeated, *pages]))
        await tasks.settled(job_id)
        await taken
        assert watch.tasks == TaskTally(1, {TaskState.DONE: 49 * TASKS_A_PAGE + 1})
    assert len(writes) <= 2


async def test_who_begins_to_watch_while_pages_are_committed_is_told_of_them(book: Book) -> None:
    watchers = Watchers()
    tasks = TaskBook(book.database, watchers)
    job_id = await book.job()
    watch, write = watchers.watch(job_id), book.database.write

    async def write_while_one_begins_to_watch(work: Any, **options: Any) -> Any:
        found = await write(work, **options)
        watch.__enter__()  # It has read the job before the commit, and seen no tasks.
        return found

    book.database.write = write_while_one_begins_to_watch  # type: ignore[method-assign]
    await tasks.take(tasks_page(job_id, 0, 1, TaskState.DONE))
    assert watch.tasks == TaskTally(1, {TaskState.DONE: 1})
    watch.__exit__(None, None, None)


def _count_writes(database: Database) -> list[None]:
    writes: list[None] = []
    write = database.write

    async def counted(work: Any, **options: Any) -> Any:
        writes.append(None)
        return await write(work, **options)

    database.write = counted  # type: ignore[method-assign]
    return writes


async def test_a_batch_that_fails_is_told_to_all_and_may_come_again(book: Book) -> None:
    tasks = TaskBook(book.database, Watchers())
    job_id = await book.job()
    pages = [tasks_page(job_id, page, 1, TaskState.DONE) for page in range(3)]
    write = book.database.write

    async def fail(*_: Any, **__: Any) -> None:
        await asyncio.sleep(0)
        raise DatabaseUnavailableError

    book.database.write = fail  # type: ignore[method-assign]
    failed = await asyncio.gather(*map(tasks.take, pages), return_exceptions=True)
    assert [type(error) for error in failed] == [DatabaseUnavailableError] * 3
    book.database.write = write  # type: ignore[method-assign]
    await asyncio.gather(*map(tasks.take, pages))
    counted = await book.database.read(lambda connection: task_rows.counts(connection, job_id, 1))
    assert counted == {TaskState.DONE: 3}


async def test_a_taker_that_is_cancelled_leaves_the_batch_to_the_others(book: Book) -> None:
    tasks = TaskBook(book.database, Watchers())
    job_id = await book.job()
    takers = [asyncio.create_task(tasks.take(tasks_page(job_id, page, 1, TaskState.DONE))) for page in range(3)]
    await takers[0]  # Alone, while the others gathered: the second one writes for both now.
    takers[1].cancel()
    await asyncio.gather(*takers, return_exceptions=True)
    assert takers[1].cancelled()
    counted = await book.database.read(lambda connection: task_rows.counts(connection, job_id, 1))
    assert counted == {TaskState.DONE: 3}


async def test_a_users_limit_goes_with_the_next_announcement(book: Book) -> None:
    job_id = await book.job()
    changed = await book.database.write(
        lambda connection: user_rows.change_limit(connection, "ada", lambda before: replace(before, cpu_millis=500))
    )
    assert changed is not None
    assert changed.limit == UserLimit(cpu_millis=500)
    await book.ledger.lost(AttemptLost(job_id, 1, "w1", "gone"))
    limits = [message.spec.limit for message in await book.outbox() if isinstance(message, JobSubmitted)]
    assert limits == [Shape(16_000, 2**35), Shape(500, 2**35)]
    nobody = await book.database.write(lambda connection: user_rows.change_limit(connection, "eve", lambda old: old))
    assert nobody is None
