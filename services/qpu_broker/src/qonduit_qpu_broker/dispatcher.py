"""Takes queued jobs to an upstream, a few at a time, and writes down what becomes of them."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from qonduit_service_kit.logs import get_logger
from qonduit_service_kit.messages import INLINE_LIMIT_BYTES, QpuState

from qonduit_qpu_broker import budgets, job_spans
from qonduit_qpu_broker.ledger import charges, jobs, sessions
from qonduit_qpu_broker.problems import Problem, Unavailable
from qonduit_qpu_broker.queueing import Queue
from qonduit_qpu_broker.upstream import Outcome, SessionTerms, Submission

if TYPE_CHECKING:
    import sqlite3

    from qonduit_service_kit.messages import QpuCharged

    from qonduit_qpu_broker.charging import ChargeBook
    from qonduit_qpu_broker.fairness import Waiting
    from qonduit_qpu_broker.ledger.records import JobRecord
    from qonduit_qpu_broker.ledger.thread import LedgerThread
    from qonduit_qpu_broker.metrics import BrokerMetrics
    from qonduit_qpu_broker.outbox import Outbox
    from qonduit_qpu_broker.payloads import Payloads
    from qonduit_qpu_broker.queueing import Place
    from qonduit_qpu_broker.upstream import Upstream

_log = get_logger("dispatcher")
ANSWER_FIRST_S = 0.01
"""What a new job sets going waits so long: it would hold up the answer that the program waits for."""
_STORAGE_RETRY_S = 1.0
_CANCEL_PATIENCE_S = 10.0
"""Less than the time after which a cancel is asked for again, so that those who wait don't pile up."""
_FINISHING_S = 5.0
"""How long a stop waits for ends to be written."""
_OVER_BUDGET_CODE = 1515


class Dispatcher:
    """The queue in front of an upstream.

    What the ledger holds unfinished at start is queued again, and what it holds uncharged is asked for again; the
    upstream finds what it was given before.
    """

    def __init__(
        self,
        ledger: LedgerThread,
        upstream: Upstream,
        *,
        payloads: Payloads,
        outbox: Outbox,
        book: ChargeBook,
        metrics: BrokerMetrics,
        wake: asyncio.Event,
        queue_delay_s: float,
        max_body_bytes: int,
    ) -> None:
        self._ledger = ledger
        self._upstream = upstream
        self._payloads = payloads
        self._outbox = outbox
        self._book = book
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes
        self._queue = Queue(metrics)
        self._delay_s = queue_delay_s
        self._running: dict[str, asyncio.Task[None]] = {}
        self._held: frozenset[str] = frozenset()
        self._handed: set[str] = set()
        """Those of the running that their upstream has, beside those that it held before the start."""
        self._cancelled: dict[str, str] = {}
        """Why those of the running that are to be cancelled are."""
        self._finishing: set[asyncio.Task[None]] = set()
        self._charging: dict[str, asyncio.Task[None]] = {}
        self._wake = wake
        """Set also by upstreams: when they may have places that they had not."""

    async def start(self) -> None:
        """Queue again what was unfinished, and ask again for what was not charged."""
        unfinished = await self._ledger.run(jobs.unfinished)
        self._held = await self._upstream.held()
        for job in unfinished:
            if job.qpu_job_id in self._held:
                self._begin(self._queue.resume(job, self._book.shares))
                if job.cancelling:
                    await self._cancel_running(job, job.cancelling)
            elif job.cancelling:
                await self.finish(job, Outcome(QpuState.CANCELLED, 0.0, reason=job.cancelling))
            else:
                self.enqueue(job)
        for qpu_job_id in await self._ledger.run(charges.uncharged):
            self._charge_later(qpu_job_id)
        for session_id in await self._ledger.run(sessions.settled_open_upstream):
            await self._upstream.release(session_id)
        if unfinished:
            _log.info("unfinished QPU jobs are queued again", jobs=len(unfinished))

    async def stop(self) -> None:
        """Let go of what runs; it is found in the ledger by the next start."""
        tasks = [*self._running.values(), *self._charging.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._finishing:
            _, late = await asyncio.wait(self._finishing, timeout=_FINISHING_S)
            for task in late:
                task.cancel()

    def enqueue(self, job: JobRecord) -> None:
        """Queue a job that is in the ledger; again is the same as once. It starts a moment later."""
        if job.qpu_job_id in self._running or job.qpu_job_id in self._queue:
            return
        simulated = any(device.simulated for device in self._upstream.devices() if device.name == job.backend)
        self._queue.add(job, self._delay_s if simulated else 0.0)
        asyncio.get_running_loop().call_later(ANSWER_FIRST_S, self._wake.set)

    def queue_length(self, backend: str) -> int:
        """Return how many jobs wait for a device."""
        return self._queue.length(backend)

    def place(self, backend: str, created_at: float) -> Place:
        """Return where a job of this age stands."""
        return self._queue.place(backend, created_at)

    async def run(self) -> None:
        """Start jobs as they become eligible, for ever."""
        while True:
            self._wake.clear()
            taken, again_s = self._queue.take(self._upstream, self._book.shares, time.time())
            for chosen in taken:
                self._begin(chosen)
            try:
                async with asyncio.timeout(again_s):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _begin(self, chosen: Waiting) -> None:
        task = asyncio.create_task(self._carry(chosen.qpu_job_id), name=f"qpu-{chosen.qpu_job_id}")
        self._running[chosen.qpu_job_id] = task
        task.add_done_callback(lambda done: self._ended(chosen, done))

    def _ended(self, chosen: Waiting, task: asyncio.Task[None]) -> None:
        self._running.pop(chosen.qpu_job_id, None)
        if chosen.qpu_job_id not in self._handed:
            self._upstream.give_back(chosen.qpu_job_id)  # However it came to its end, also before its first line.
        self._handed.discard(chosen.qpu_job_id)
        self._cancelled.pop(chosen.qpu_job_id, None)
        self._queue.ended(chosen, self._book.shares, time.time())
        self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error(
                "a QPU job is left unfinished until the next start", qpu_job_id=chosen.qpu_job_id, exc_info=error
            )

    async def _carry(self, qpu_job_id: str) -> None:
        job = await self._ledger.insist(lambda ledger: jobs.get(ledger, qpu_job_id))
        if job is None or job.state.final:
            return  # Cancelled between the choice and now.
        try:
            submission = await self._submission(job)
        except Problem as problem:
            await self.finish(job, Outcome(QpuState.FAILED, 0.0, reason=problem.message, code=problem.code))
            return
        self._handed.add(qpu_job_id)
        try:
            outcome = await self._upstream.run(submission, lambda at: self._started(job, at))
        except Exception:  # noqa: BLE001 -- a fault of ours must not leave a program waiting for ever.
            _log.exception("an upstream broke its promise", qpu_job_id=qpu_job_id)
            outcome = Outcome(QpuState.FAILED, None, reason="Internal error of the QPU broker; its log has more.")
        if outcome.state is QpuState.CANCELLED and not outcome.reason:
            outcome = replace(outcome, reason=self._cancelled.get(qpu_job_id, ""))
        # Not given up when we are stopped: it may hold a result that can't be read again.
        finishing = asyncio.create_task(self.finish(job, outcome), name=f"finish-{qpu_job_id}")
        self._finishing.add(finishing)
        finishing.add_done_callback(self._finishing.discard)
        await asyncio.shield(finishing)

    async def _submission(self, job: JobRecord) -> Submission:
        """Return a job as an upstream takes it; Problem if it can't be sent."""
        now = time.time()
        window = now - budgets.USER_WINDOW_S
        spent = await self._ledger.insist(lambda ledger: charges.spent(ledger, job.user, job.job_id, window, now))
        held = job.qpu_job_id in self._held  # The provider may have it: what it costs, it costs.
        if not held:
            self._refuse_other_device(job)
            if reason := budgets.refusal(job.budget, spent):
                raise Problem(reason, code=_OVER_BUDGET_CODE)
        try:
            body: bytes | None = await self._body(job)
        except Problem:
            if not held:
                raise
            body = None
        session = None
        if job.session_id:
            left_s = budgets.left_s(job.budget, spent)
            session = await self._ledger.insist(lambda ledger: _terms(ledger, job, left_s))
        return Submission(
            job.qpu_job_id,
            job.program,
            job.backend,
            body,
            job.api_version,
            tags=job.tags,
            cost_s=budgets.most_cost_s(job.cost_s, job.budget, spent),
            session=session,
        )

    def _refuse_other_device(self, job: JobRecord) -> None:
        """Raise Problem where a device's name means another one than when the job was submitted: that would cost."""
        if any(one.name == job.backend and one.simulated != job.simulated for one in self._upstream.devices()):
            was, now = ("simulated", "real") if job.simulated else ("real", "simulated")
            raise Problem(f"It was submitted to a {was} {job.backend}, which is a {now} one by now. Run it again.")

    async def _body(self, job: JobRecord) -> bytes:
        body = await self._ledger.insist(lambda ledger: jobs.body(ledger, job.qpu_job_id))
        while body is None:
            try:
                body = await self._payloads.get(job.body_digest, max_bytes=self._max_body_bytes)
            except Unavailable as problem:
                _log.warning("waiting for storage", qpu_job_id=job.qpu_job_id, reason=problem.message)
                await asyncio.sleep(_STORAGE_RETRY_S)
        return body

    async def _started(self, job: JobRecord, at: float) -> None:
        if await self._ledger.insist(lambda ledger: _begun(ledger, job, at)) is not None:
            self._metrics.waited.labels(job.backend).observe(max(0.0, at - job.created_at))
        self._outbox.wake()

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
        """Write a job's end and what it was charged; the second time changes nothing.

        A crash before the transaction finds the job unfinished and its upstream tells the outcome again; a crash
        after it finds all written, and what is still to be told or asked in the ledger.
        """
        digest = await self._stored(job, outcome.result)
        kept = replace(outcome, result=b"") if digest else outcome
        ended, charge, settled = await self._ledger.insist(lambda ledger: _end(ledger, job, kept, digest))
        self._outbox.wake()
        self._book.booked(charge)
        if ended is None:
            return
        self._metrics.finished.labels(job.backend, outcome.state).inc()
        job_spans.tell(ended, outcome.charged_s)
        if outcome.started_at is not None:
            self._metrics.waited.labels(job.backend).observe(max(0.0, outcome.started_at - job.created_at))
        if outcome.charged_s is None:
            self._charge_later(job.qpu_job_id)
        if settled:
            await self._upstream.release(job.session_id)

    def _charge_later(self, qpu_job_id: str) -> None:
        task = asyncio.create_task(self._charge(qpu_job_id), name=f"charge-{qpu_job_id}")
        self._charging[qpu_job_id] = task
        task.add_done_callback(lambda _: self._charging.pop(qpu_job_id, None))

    async def _charge(self, qpu_job_id: str) -> None:
        await self._book.book_job(qpu_job_id, await self._upstream.charge(qpu_job_id))

    async def cancel(self, job: JobRecord, reason: str) -> None:
        """Cancel a job: one that waits at once and for nothing, one that runs as soon as its upstream lets go.

        A crash from the first line on finds in the ledger that it is to be cancelled.
        """
        await self._ledger.insist(lambda ledger: jobs.note_cancelling(ledger, job.qpu_job_id, reason))
        waited = job.qpu_job_id in self._queue
        self._queue.remove(job.qpu_job_id)
        running = self._running.get(job.qpu_job_id)
        if running is None:
            # One that neither waits nor runs was left by a fault of ours: what it cost is asked for.
            await self.finish(job, Outcome(QpuState.CANCELLED, 0.0 if waited else None, reason=reason))
            return
        await self._cancel_running(job, reason)
        done, _ = await asyncio.wait([running], timeout=_CANCEL_PATIENCE_S)
        if done and running.cancelled():
            await self.finish(job, Outcome(QpuState.CANCELLED, 0.0, reason=reason))

    async def _cancel_running(self, job: JobRecord, reason: str) -> None:
        self._cancelled[job.qpu_job_id] = reason
        if job.qpu_job_id in self._handed | self._held:
            await self._upstream.cancel(job.qpu_job_id)
        else:
            self._running[job.qpu_job_id].cancel()  # Its body may be waited for as long as storage is away.


def _terms(ledger: sqlite3.Connection, job: JobRecord, left_s: float | None) -> SessionTerms | None:
    """Return the session of a job; a dedicated one, which costs by the clock, ends with its budget."""
    session = sessions.get(ledger, job.session_id)
    if session is None:
        return None
    ends_at = session.created_at + session.max_ttl_s
    if session.mode == "dedicated" and left_s is not None:
        ends_at = min(ends_at, time.time() + left_s)
    return SessionTerms(session.session_id, session.mode, job.backend, ends_at)


def _begun(ledger: sqlite3.Connection, job: JobRecord, at: float) -> JobRecord | None:
    """Write that the device has begun with a job, and return it if that is new."""
    if job.session_id:
        sessions.activate(ledger, job.session_id, at)
    return jobs.advance(ledger, job.qpu_job_id, QpuState.RUNNING, at=at)


def _end(
    ledger: sqlite3.Connection, job: JobRecord, outcome: Outcome, digest: str
) -> tuple[JobRecord | None, QpuCharged | None, bool]:
    """Write a job's end and its charge; and return what was written, and whether its session ended with it."""
    now = time.time()
    if outcome.started_at is not None:
        _begun(ledger, job, outcome.started_at)
    ended = jobs.advance(
        ledger,
        job.qpu_job_id,
        outcome.state,
        at=now,
        reason=outcome.reason,
        code=outcome.code,
        qpu_s=outcome.charged_s,
        result=None if digest else outcome.result,
        result_digest=digest,
    )
    charge = None
    if ended is not None and outcome.charged_s is not None:
        charge = charges.book_job(ledger, job.qpu_job_id, outcome.charged_s, now)
    settled = bool(job.session_id) and sessions.settle(ledger, job.session_id)
    return ended, charge, settled
