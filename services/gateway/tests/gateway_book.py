"""The book of jobs on a real database, for the tests of all that is kept there."""

from __future__ import annotations

import tempfile
import uuid
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from qonduit_gateway.database import (
    function_rows,
    history_rows,
    job_rows,
    migrate,
    outbox_rows,
    user_rows,
)
from qonduit_gateway.database.engine import Database
from qonduit_gateway.database.outbox_rows import Lane
from qonduit_gateway.functions.model import FunctionName, FunctionSpec, version_digest
from qonduit_gateway.jobs.model import Job, Program, Submission
from qonduit_gateway.ledger import Change, JobLedger
from qonduit_gateway.outgoing import OutgoingFactory
from qonduit_service_kit.codec import decode_wire_type
from qonduit_service_kit.messages import (
    EventKind,
    JobEvent,
    Shape,
)
from qonduit_service_kit.tickets import TicketSigner
from sqlalchemy import make_url

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sqlalchemy import Connection

KEY = b"k" * 32
NOW = 4_000_000_000.25
"""In the future, so that tickets made then have not expired."""


def asked_for(submission: Submission) -> Callable[[Connection], Submission]:
    """Return what tells a ledger of a submission that is complete."""
    return lambda _: submission


class Book:
    """A ledger on a database, and what it told."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.told: list[Change] = []
        self.now = NOW
        self.ledger = self.ledger_telling(self.told.append)

    def ledger_telling(self, told: Callable[[Change], None]) -> JobLedger:
        """Return a ledger on the same database that tells somebody else."""
        outgoing = OutgoingFactory(TicketSigner(KEY), limit=Shape(16_000, 2**35), clock=lambda: self.now)
        return JobLedger(self.database, outgoing, told, max_attempts=3, tell_again_s=10, clock=lambda: self.now)

    async def user(self, name: str = "ada") -> None:
        await self.database.write(
            lambda connection: user_rows.create(
                connection, name, administrator=False, token_digest=uuid.uuid4().hex, at=NOW
            )
        )

    async def submission(self, owner: str = "ada", title: str = "f") -> Submission:
        spec = FunctionSpec(title, "program.py", ("numpy",), {"A": "b"})
        version, _ = await self.database.write(
            lambda connection: function_rows.store(
                connection,
                FunctionName(title, owner=owner),
                spec,
                version_digest(spec, "a" * 64),
                ("a" * 64, 10),
                at=self.now,
            )
        )
        program = Program(version.version_id, title, version.version, "a" * 64, "program.py", ("numpy",), {"A": "b"})
        return Submission(str(uuid.uuid4()), owner, program, "c" * 64, Shape(1000, 2**31), 3600.0, 0, self.now)

    async def job(self) -> str:
        job, created = await self.ledger.submit(asked_for(await self.submission()), None)
        assert created
        return job.job_id

    async def outbox(self) -> list[Any]:
        rows = await self.database.read(lambda connection: outbox_rows.waiting(connection, Lane.BUS, limit=1000))
        return [decode_wire_type(row.type_name, row.body) for _, row in rows]

    async def statuses(self, job_id: str) -> list[str]:
        history = await self.database.read(lambda connection: history_rows.history(connection, job_id))
        return [entry.status for entry in history]


def put_tables(database_url: str) -> None:
    """Have the tables there where that is a matter of copying a file."""
    url = make_url(database_url)
    if url.get_backend_name() == "sqlite":
        Path(str(url.database)).write_bytes(migrated())


@cache
def migrated() -> bytes:
    """Make a database without rows, and return its file: to make one takes longer than most tests."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gateway.db"
        database = Database(f"sqlite:///{path}")
        with database.engine.begin() as connection:
            migrate.upgrade(connection)
        database.engine.dispose()
        return path.read_bytes()


@pytest.fixture
async def book(database_url: str) -> AsyncIterator[Book]:
    put_tables(database_url)
    database = Database(database_url, busy_timeout_s=60)
    await database.write(migrate.upgrade)
    made = Book(database)
    await made.user()
    yield made
    await database.close()


def event(job_id: str, sequence: int, kind: EventKind, attempt: int = 1, **more: Any) -> JobEvent:
    return JobEvent(job_id, attempt, sequence, NOW + sequence, "w1", kind, **more)


def job_row(job_id: str) -> Callable[[Connection], Job | None]:
    return lambda connection: job_rows.get(connection, job_id)
