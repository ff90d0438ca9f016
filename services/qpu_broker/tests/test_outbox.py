from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from qonduit_qpu_broker.ledger import jobs, programs
from qonduit_qpu_broker.ledger.thread import LedgerThread
from qonduit_qpu_broker.outbox import Outbox
from qonduit_service_kit.bus import UnroutableError
from qonduit_service_kit.messages import Address, QpuTransition
from qpu_jobs import JOB

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path

    from qonduit_qpu_broker.ledger.records import NewJob

LOST = Address("qonduit.workers", "lost")
ALIVE = Address("qonduit.workers", "alive")


class _Bus:
    """A bus on which one worker is gone."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[QpuTransition] = asyncio.Queue()
        self.tried_lost = 0

    async def publish(
        self,
        to: Address,
        body: object,
        *,
        persistent: bool = True,  # noqa: ARG002
        mandatory: bool = True,  # noqa: ARG002
        message_id: str | None = None,  # noqa: ARG002
    ) -> None:
        if to == LOST:
            self.tried_lost += 1
            raise UnroutableError("nobody listens")
        assert isinstance(body, QpuTransition)
        self.heard.put_nowait(body)


def _job(job_id: str, number: int, to: Address, attempt: int = 1) -> NewJob:
    return replace(JOB, job_id=job_id, attempt=attempt, call_number=number, reply_to=to)


async def test_a_lost_worker_with_many_jobs_keeps_no_other_waiting(tmp_path: Path) -> None:
    ledger, bus = LedgerThread(tmp_path / "ledger.sqlite3"), _Bus()
    await ledger.start()

    def fill(open_: sqlite3.Connection) -> None:
        for job_id in ("job-lost", "job-alive"):
            programs.note_program(open_, job_id, 1, "ada")
        for number in range(250):
            jobs.submit(open_, _job("job-lost", number, LOST))
        jobs.submit(open_, _job("job-alive", 1, ALIVE))

    await ledger.run(fill)
    outbox = Outbox(ledger, bus)
    telling = asyncio.create_task(outbox.run())
    assert (await asyncio.wait_for(bus.heard.get(), 60)).job_id == "job-alive"
    assert bus.tried_lost == 1, "an address that takes nothing is tried once a round"
    # A new attempt elsewhere that takes none of the jobs over: nobody will ask for their steps any more.
    await ledger.run(lambda open_: programs.note_program(open_, "job-lost", 2, "ada"))
    await ledger.run(lambda open_: jobs.submit(open_, _job("job-lost", 1, ALIVE, attempt=2)))
    outbox.wake()
    again = await asyncio.wait_for(bus.heard.get(), 60)
    assert (again.job_id, again.attempt) == ("job-lost", 2)
    outbox.wake()
    async with asyncio.timeout(60):
        while await ledger.run(lambda open_: programs.due(open_, 1)):
            outbox.wake()
    telling.cancel()
    with suppress(asyncio.CancelledError):
        await telling
    await ledger.stop()
