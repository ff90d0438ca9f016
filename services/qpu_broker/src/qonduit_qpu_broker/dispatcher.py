"""Takes queued jobs to an upstream, a few at a time, and writes down what becomes of them."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, TypeVar

from qonduit_service_kit.logs import get_logger
from qonduit_service_kit.messages import INLINE_LIMIT_BYTES, QpuState

from qonduit_qpu_broker.fairness import Waiting, next_job
from qonduit_qpu_broker.ledger import jobs, listing, sessions
from qonduit_qpu_broker.ledger.thread import LedgerUnavailableError
from qonduit_qpu_broker.problems import Problem, Unavailable
from qonduit_qpu_broker.upstream import Outcome, Submission

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from qonduit_qpu_broker.ledger.records import JobRecord
    from qonduit_qpu_broker.ledger.thread import LedgerThread
    from qonduit_qpu_broker.metrics import BrokerMetrics
    from qonduit_qpu_broker.outbox import Outbox
    from qonduit_qpu_broker.payloads import Payloads
    from qonduit_qpu_broker.upstream import Upstream

_log = get_logger("dispatcher")
_FAIR_WINDOW_S = 24 * 3600.0
_STORAGE_RETRY_S = 1.0
_CANCEL_PATIENCE_S = 10.0
"""Less than the time after which a cancel is asked for again, so that those who wait don't pile up."""

T = TypeVar("T")


class Dispatcher:
    """The queue in front of an upstream.

    What the ledger holds unfinished at start is queued again; the upstream is told that it may know the job.
    """

    def __init__(
        self,
        ledger: LedgerThread,
        upstream: Upstream,
        payloads: Payloads,
        outbox: Outbox,
        metrics: BrokerMetrics,
        *,
        queue_delay_s: float,
        max_body_bytes: int,
    ) -> None:
        self._ledger = ledger
        self._upstream = upstream
        self._payloads = payloads
        self._outbox = outbox
        self._metrics = metrics
        self._delay_s = queue_delay_s
        self._max_body_bytes = max_body_bytes
        self._waiting: dict[str, Waiting] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._handed: set[str] = set()
        """Those of the running that their upstream has."""
        self._adopt: set[str] = set()
        self._used_s: dict[str, float] = {}
        self._wake = asyncio.Event()

    async def start(self) -> None:
        """Queue again what was unfinished, and take the totals from the ledger."""
        since = time.time() - _FAIR_WINDOW_S
        unfinished = await self._ledger.run(jobs.unfinished)
        self._used_s = await self._ledger.run(lambda ledger: listing.seconds_by_user(ledger, since))
        self._metrics.qpu_seconds.reset(await self._ledger.run(listing.seconds_by_device))
        for job in unfinished:
            self._adopt.add(job.qpu_job_id)
            self.enqueue(job)
        if unfinished:
            _log.info("unfinished QPU jobs are queued again", jobs=len(unfinished))

    async def stop(self) -> None:
        """Let go of what runs; it is found in the ledger by the next start."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def enqueue(self, job: JobRecord) -> None:
        """Queue a job that is in the ledger; again is the same as once."""
        if job.qpu_job_id in self._running or job.qpu_job_id in self._waiting:
            return
        self._waiting[job.qpu_job_id] = Waiting(
            job.qpu_job_id, job.user, job.backend, job.created_at, job.created_at + self._delay_s
        )
        self._metrics.queued.labels(job.backend).inc()
        self._wake.set()

    def queue_length(self, backend: str) -> int:
        """Return how many jobs wait for a device."""
        return sum(1 for job in self._waiting.values() if job.backend == backend)

    async def run(self) -> None:
        """Start jobs as they become eligible, for ever."""
        while True:
            self._wake.clear()
            now = time.time()
            while len(self._running) < self._upstream.slots:
                chosen = next_job(self._waiting.values(), self._used_s, now)
                if chosen is None:
                    break
                self._begin(chosen)
            try:
                async with asyncio.timeout(self._until_next(now)):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _until_next(self, now: float) -> float | None:
        """Return the seconds until a job becomes eligible, or None if only an event can change anything."""
        if len(self._running) >= self._upstream.slots or not self._waiting:
            return None
        return max(0.0, min(job.eligible_at for job in self._waiting.values()) - now)

    def _begin(self, chosen: Waiting) -> None:
        self._leave_queue(chosen.qpu_job_id)
        task = asyncio.create_task(self._carry(chosen.qpu_job_id), name=f"qpu-{chosen.qpu_job_id}")
        self._running[chosen.qpu_job_id] = task
        task.add_done_callback(lambda done: self._ended(chosen.qpu_job_id, done))

    def _leave_queue(self, qpu_job_id: str) -> None:
        if (job := self._waiting.pop(qpu_job_id, None)) is not None:
            self._metrics.queued.labels(job.backend).dec()

    def _ended(self, qpu_job_id: str, task: asyncio.Task[None]) -> None:
        self._running.pop(qpu_job_id, None)
        self._handed.discard(qpu_job_id)
        self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a QPU job is left unfinished until the next start", qpu_job_id=qpu_job_id, exc_info=error)

    async def _carry(self, qpu_job_id: str) -> None:
        job = await self._ledger.run(lambda ledger: jobs.get(ledger, qpu_job_id))
        if job is None or job.state.final:
            return  # Cancelled between the choice and now.
        try:
            body = await self._body(job)
        except Problem as problem:
            await self.finish(job, Outcome(QpuState.FAILED, 0.0, reason=problem.message, code=problem.code))
            return
        submission = Submission(
            qpu_job_id, job.program, job.backend, body, job.api_version, adopt=qpu_job_id in self._adopt
        )
        self._handed.add(qpu_job_id)
        try:
            outcome = await self._upstream.run(submission, lambda: self._started(job))
        except Exception:  # noqa: BLE001 -- a fault of ours must not leave a program waiting for ever.
            _log.exception("an upstream broke its promise", qpu_job_id=qpu_job_id)
            outcome = Outcome(QpuState.FAILED, 0.0, reason="Internal error of the QPU broker; its log has more.")
        await self.finish(job, outcome)

    async def _body(self, job: JobRecord) -> bytes:
        body = await self._ledger.run(lambda ledger: jobs.body(ledger, job.qpu_job_id))
        while body is None:
            try:
                body = await self._payloads.get(job.body_digest, max_bytes=self._max_body_bytes)
            except Unavailable as problem:
                _log.warning("waiting for storage", qpu_job_id=job.qpu_job_id, reason=problem.message)
                await asyncio.sleep(_STORAGE_RETRY_S)
        return body

    async def _started(self, job: JobRecord) -> None:
        now = time.time()

        def note(ledger: sqlite3.Connection) -> JobRecord | None:
            if job.session_id:
                sessions.activate(ledger, job.session_id, now)
            return jobs.advance(ledger, job.qpu_job_id, QpuState.RUNNING, at=now)

        if await self._written(job, note) is not None:
            self._metrics.waited.labels(job.backend).observe(now - job.created_at)
        self._outbox.wake()

    async def _written(self, job: JobRecord, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run a piece of work on the ledger, however long its disk is full: what was paid for is never dropped."""
        while True:
            try:
                return await self._ledger.run(work)
            except LedgerUnavailableError as error:
                _log.warning("waiting for the ledger", qpu_job_id=job.qpu_job_id, reason=str(error))
                await asyncio.sleep(_STORAGE_RETRY_S)

    async def _stored(self, job: JobRecord, result: bytes) -> str:
        """Store a large result and return its digest, however long storage is away; empty for a small one."""
        while len(result) > INLINE_LIMIT_BYTES:
            try:
                return await self._payloads.put(result)
            except Unavailable as problem:
                _log.warning("waiting for storage", qpu_job_id=job.qpu_job_id, reason=problem.message)
                await asyncio.sleep(_STORAGE_RETRY_S)
        return ""

    async def finish(self, job: JobRecord, outcome: Outcome) -> None:
        """Write a job's end; the second time changes nothing."""
        digest = await self._stored(job, outcome.result)

        def note(ledger: sqlite3.Connection) -> tuple[JobRecord | None, str]:
            ended = jobs.advance(
                ledger,
                job.qpu_job_id,
                outcome.state,
                at=time.time(),
                reason=outcome.reason,
                code=outcome.code,
                qpu_s=outcome.charged_s,
                result=None if digest else outcome.result,
                result_digest=digest,
            )
            session = sessions.get(ledger, job.session_id) if job.session_id else None
            if session is not None:
                sessions.settle(ledger, session.session_id)
            return ended, session.mode if session is not None else "job"

        ended, mode = await self._written(job, note)
        self._outbox.wake()
        if ended is None:
            return
        self._used_s[job.user] = self._used_s.get(job.user, 0.0) + outcome.charged_s
        self._metrics.qpu_seconds.add(job.backend, mode, outcome.charged_s)
        self._metrics.finished.labels(job.backend, outcome.state).inc()

    async def cancel(self, job: JobRecord, reason: str) -> None:
        """Cancel a job: one that waits at once and for nothing, one that runs as soon as its upstream lets go."""
        self._leave_queue(job.qpu_job_id)
        running = self._running.get(job.qpu_job_id)
        if running is None:
            await self.finish(job, Outcome(QpuState.CANCELLED, 0.0, reason=reason))
            return
        if job.qpu_job_id in self._handed:
            await self._upstream.cancel(job.qpu_job_id)
        else:
            running.cancel()  # On its way: its body may be waited for as long as storage is away.
        done, _ = await asyncio.wait([running], timeout=_CANCEL_PATIENCE_S)
        if done:
            # It may have been between the queue and the upstream.
            await self.finish(job, Outcome(QpuState.CANCELLED, 0.0, reason=reason))
