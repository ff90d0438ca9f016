from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import qpu_jobs
from prometheus_client import CollectorRegistry
from qonduit_qpu_broker.charging import ChargeBook
from qonduit_qpu_broker.dispatcher import Dispatcher
from qonduit_qpu_broker.ledger import jobs, programs
from qonduit_qpu_broker.ledger.thread import LedgerThread
from qonduit_qpu_broker.metrics import BrokerMetrics
from qonduit_qpu_broker.outbox import Outbox
from qonduit_qpu_broker.problems import Unavailable
from qonduit_qpu_broker.upstream import Device, Outcome
from qonduit_service_kit.messages import QpuState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from qonduit_qpu_broker.ledger.records import JobRecord, NewJob
    from qonduit_qpu_broker.payloads import Payloads
    from qonduit_qpu_broker.upstream import Submission, Upstream
    from qonduit_service_kit.bus import Bus

JOB = replace(qpu_jobs.JOB, body=None, body_digest="d")


class _Storage:
    """Storage that is away; says when it is asked."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def get(self, digest: str, *, max_bytes: int) -> bytes:  # noqa: ARG002
        self.asked.set()
        raise Unavailable("storage is away")


class _Device:
    """Runs a job with a result of two bytes, once it is let."""

    def __init__(self, before_end: Callable[[], Awaitable[object]]) -> None:
        self._before_end = before_end

    def devices(self) -> tuple[Device, ...]:
        return ()

    async def held(self) -> frozenset[str]:
        return frozenset()

    def claim(self, _qpu_job_id: str, _backend: str, _session_id: str) -> float | None:
        return 0.0

    def give_back(self, qpu_job_id: str) -> None:
        """Every job has a place."""

    async def run(self, _submission: Submission, started: Callable[[float], Awaitable[None]]) -> Outcome:
        await started(time.time())
        await self._before_end()
        return Outcome(QpuState.COMPLETED, 3.0, result=b"{}")


@asynccontextmanager
async def _dispatching(ledger: LedgerThread, storage: object, upstream: object) -> AsyncIterator[Dispatcher]:
    await ledger.start()
    outbox = Outbox(ledger, cast("Bus", None))
    metrics = BrokerMetrics(CollectorRegistry())
    dispatcher = Dispatcher(
        ledger,
        cast("Upstream", upstream),
        payloads=cast("Payloads", storage),
        outbox=outbox,
        book=ChargeBook(ledger, outbox, metrics),
        metrics=metrics,
        wake=asyncio.Event(),
        queue_delay_s=0,
        max_body_bytes=1024,
    )
    running = asyncio.create_task(dispatcher.run())
    yield dispatcher
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    await dispatcher.stop()
    await ledger.stop()


async def _submitted(ledger: LedgerThread, job: NewJob) -> JobRecord:
    await ledger.run(lambda open_: programs.note_program(open_, job.job_id, 1, "ada"))
    return (await ledger.run(lambda open_: jobs.submit(open_, job)))[0]


async def test_a_job_whose_body_is_waited_for_can_be_cancelled(tmp_path: Path) -> None:
    ledger, storage = LedgerThread(tmp_path / "ledger.sqlite3"), _Storage()
    async with _dispatching(ledger, storage, _Device(asyncio.Event().wait)) as dispatcher:
        job = await _submitted(ledger, JOB)
        dispatcher.enqueue(job)
        await asyncio.wait_for(storage.asked.wait(), 60)
        await asyncio.wait_for(dispatcher.cancel(job, "Not wanted."), 60)
        ended = await ledger.run(lambda open_: jobs.get(open_, job.qpu_job_id))
        assert ended is not None
        assert (ended.state, ended.qpu_s) == (QpuState.CANCELLED, 0.0)


async def test_a_paid_result_outlasts_a_full_disk(tmp_path: Path) -> None:
    ledger = LedgerThread(tmp_path / "ledger.sqlite3")

    async def fill_the_disk() -> None:
        pages = await ledger.run(lambda open_: open_.execute("PRAGMA page_count").fetchone()[0])
        await ledger.run(lambda open_: open_.execute(f"PRAGMA max_page_count = {pages}").fetchone())

    result = Outcome(QpuState.COMPLETED, 3.0, result=b"0" * 12_000)
    async with _dispatching(ledger, _Storage(), _Device(asyncio.Event().wait)) as dispatcher:
        job = await _submitted(ledger, replace(JOB, body=b"{}"))
        await fill_the_disk()
        ending = asyncio.create_task(dispatcher.finish(job, result))
        done, _ = await asyncio.wait([ending], timeout=0.2)
        assert not done
        await ledger.run(lambda open_: open_.execute("PRAGMA max_page_count = 1000000").fetchone())
        await asyncio.wait_for(ending, 60)
        ended = await ledger.run(lambda open_: jobs.get(open_, job.qpu_job_id))
        assert ended is not None
        assert (ended.state, ended.qpu_s) == (QpuState.COMPLETED, 3.0)
