"""The book of jobs: every change is one transaction, and everybody concerned is told right after it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import astuple, dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from qonduit_service_kit.messages import EventKind, Reason, ToldError

from qonduit_gateway.database import (
    garbage_rows,
    history_rows,
    idempotency_rows,
    job_rows,
    outbox_rows,
    task_rows,
    user_rows,
)
from qonduit_gateway.jobs import transitions
from qonduit_gateway.jobs.model import Entry, Job, Progress, Source
from qonduit_gateway.jobs.transitions import Announce, Decision, Stop, Verdict
from qonduit_gateway.lately_over import LatelyOver

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from qonduit_service_kit.messages import AttemptLost, JobEvent, PlacementRefused, StageUsage
    from sqlalchemy import Connection

    from qonduit_gateway.database.engine import Database
    from qonduit_gateway.database.idempotency_rows import Claim
    from qonduit_gateway.database.outbox_rows import Numbered
    from qonduit_gateway.jobs.model import Submission, UserLimit
    from qonduit_gateway.outgoing import OutgoingFactory

T = TypeVar("T")

_STOP_AGAIN_S = 30.0


class KeyReusedError(Exception):
    """The idempotency key was used before, for another request."""


class ActiveJobLimitError(Exception):
    """The user has as many jobs that are not over as they may."""

    def __init__(self, active: int, most: int) -> None:
        super().__init__(f"{active} jobs are not over, of at most {most}")
        self.active = active
        self.most = most


class UserDisabledError(Exception):
    """The user is shut out."""


class JobNotOverError(Exception):
    """The job is not over, so it can't be deleted."""


@dataclass(frozen=True, slots=True)
class Change:
    """What one transaction did to a job."""

    job: Job
    before: Progress | None
    """None for a job that is new."""
    verdict: Verdict
    at: float
    usage: tuple[StageUsage, ...] = ()
    """Totals of all attempts; set when the job ended with this change."""
    outgoing: tuple[Numbered, ...] = ()
    """The rows that it wrote into the outbox."""

    @property
    def ended(self) -> bool:
        """Whether the job reached a terminal state with this change."""
        was_over = self.before is not None and self.before.state.terminal
        return self.job.progress.state.terminal and not was_over


class JobLedger:
    """The only writer of jobs. `told` is called on the event loop after each commit, in the order of commits."""

    def __init__(
        self,
        database: Database,
        outgoing: OutgoingFactory,
        told: Callable[[Change], None],
        *,
        max_attempts: int,
        tell_again_s: float,
        limit_active_jobs: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._outgoing = outgoing
        self._told = told
        self._max_attempts = max_attempts
        self._tell_again_s = tell_again_s
        self._limit_active_jobs = limit_active_jobs
        self._clock = clock
        self._running: set[asyncio.Task[Any]] = set()
        self._lately_over = LatelyOver()
        self._stops_sent: dict[tuple[str, int, str], float] = {}

    async def submit(self, asked: Callable[[Connection], Submission], claim: Claim | None) -> tuple[Job, bool]:
        """Accept a job, once for each claim, and tell whether it is new.

        `asked` tells in the same transaction what is asked for, unless the claim is already a job's; what it raises
        is raised here, and nothing is changed. After the return the job survives any crash: it, its key, and the
        message to the scheduler are one transaction.

        Raises:
            KeyReusedError: The claim's key belongs to another request.
            ActiveJobLimitError: The user has as many jobs as they may; a claim's key stays free.
            UserDisabledError: The user was shut out since they called; the text says why.
            DatabaseUnavailableError: Nothing can be said; the same call again is safe with a claim.
        """
        now = self._clock()

        def accept(connection: Connection) -> Change | Job:
            if claim is not None:
                held = idempotency_rows.claim(connection, claim, at=now)
                if held.request_hash != claim.request_hash:
                    raise KeyReusedError(held.job_id)
                known = None if held.job_id == claim.job_id else job_rows.get(connection, held.job_id)
                if known is not None:
                    return known
            submission = asked(connection)
            limit = self._limit_with_room(connection, submission.owner)
            job = Job(replace(submission, limit=limit), Progress(queued_at=submission.created_at))
            job_rows.insert(connection, job, tell_again_at=now + self._tell_again_s)
            history_rows.add(connection, job.job_id, _first_entry(job))
            rows = outbox_rows.add(connection, self._outgoing.make(job, Announce()), at=now)
            return Change(job, None, Verdict.APPLIED, now, outgoing=tuple(rows))

        async def write() -> tuple[Job, bool]:
            done = await self._database.write(accept)
            if isinstance(done, Job):
                return done, False
            self._told(done)
            return done.job, True

        return await self._to_the_end(write())

    async def accepted(self, claim: Claim) -> Job | None:
        """Return the job that the very same request made before under a claim's key."""

        def read(connection: Connection) -> Job | None:
            held = idempotency_rows.find(connection, claim)
            same = held is not None and held.request_hash == claim.request_hash
            return job_rows.get(connection, held.job_id) if held is not None and same else None

        return await self._database.read(read)

    def _limit_with_room(self, connection: Connection, owner: str) -> UserLimit:
        """Return the limit of a user who may have one job more.

        Until the transaction ends nobody else counts this user's jobs, so that together they stay within the limit, and
        nobody shuts the user out, so that whoever cancels the jobs of one who was finds all of them.
        """
        user = user_rows.locked(connection, owner)
        if user is None:
            raise RuntimeError(f"the user {owner!r} is gone")
        if user.disabled_text is not None:
            raise UserDisabledError(user.disabled_text)
        most = user.limit.active_jobs_over(self._limit_active_jobs)
        if most and (active := job_rows.count_active(connection, owner)) >= most:
            raise ActiveJobLimitError(active, most)
        return user.limit

    async def apply(self, event: JobEvent) -> Verdict:
        """Apply a worker's event once; repeated, late and fenced-off ones change no state."""
        # What a program raised may hold a NUL, which PostgreSQL can't keep: its job must end all the same.
        event = replace(event, text=_without_nul(event.text), error=_storable(event.error))

        def move(connection: Connection) -> Change | None:
            job = job_rows.get(connection, event.job_id, lock=True)
            if job is None:
                return None
            if event.kind is not EventKind.USAGE and history_rows.is_known(
                connection, event.job_id, event.attempt, event.sequence
            ):
                return Change(job, job.progress, Verdict.IGNORED, self._clock())
            decision = transitions.on_event(job.progress, event, max_attempts=self._max_attempts)
            if decision.verdict is not Verdict.STALE:
                history_rows.record_usage(connection, job.job_id, event.attempt, event.sequence, event.usage)
            return self._commit(connection, job, decision)

        change = await self._to_the_end(self._write(move, event.result))
        if change is None:
            await self._stop_unknown(event)
            return Verdict.STALE
        return change.verdict

    async def cancel(self, job_id: str) -> Change | None:
        """Ask for a job's end; None when there is no such job."""
        return await self._decide(job_id, lambda before: transitions.on_cancel(before, at=self._clock()))

    async def delete(self, job_id: str) -> bool:
        """Delete a job that is over: its history, tasks, log, arguments and result; False when there is none.

        What it was charged stays in the bill. Log and blobs go soon after; that they must is in the same transaction.

        Raises:
            JobNotOverError: It is not over.
        """
        now = self._clock()

        def bury(connection: Connection) -> bool:
            job = job_rows.get(connection, job_id, lock=True)
            if job is None:
                return False
            if not job.progress.state.terminal:
                raise JobNotOverError(job.progress.state.value)
            job_rows.bury(connection, job_id, at=now)
            history_rows.forget(connection, job_id)
            task_rows.forget(connection, job_id)
            idempotency_rows.forget(connection, job.submission.owner, job_id)
            digests = {job.submission.arguments_digest, job.progress.result_digest} - {""}
            garbage_rows.add(connection, digests, at=now)
            outbox_rows.add(connection, self._outgoing.delete_logs(job), at=now)
            return True

        async def write() -> bool:
            try:
                return await self._database.write(bury)
            finally:
                self._lately_over.forget(job_id)

        return await self._to_the_end(write())

    async def lost(self, message: AttemptLost) -> Change | None:
        """Requeue an attempt that was lost, or end the job when it was tried often enough."""
        return await self._decide(
            message.job_id,
            lambda before: transitions.on_lost(
                before,
                message.attempt,
                message.text,
                worker_id=message.worker_id,
                at=self._clock(),
                max_attempts=self._max_attempts,
            ),
        )

    async def refused(self, message: PlacementRefused) -> Change | None:
        """End a job that no worker could ever hold."""
        return await self._decide(
            message.job_id,
            lambda before: transitions.on_refused(before, message.attempt, message.text, at=self._clock()),
        )

    async def find(self, job_id: str) -> Job | None:
        """Return a job, or None; one that ended lately from memory."""
        over = self._lately_over.get(job_id)
        if over is not None:
            return over
        return await self._database.read(lambda connection: job_rows.get(connection, job_id))

    def small_result(self, job: Job) -> bytes | None:
        """Return the result of a job that ended lately, if it is here; storage has it in any case."""
        return self._lately_over.result(job.job_id) if job.progress.result_digest else None

    async def _decide(self, job_id: str, decide: Callable[[Progress], Decision]) -> Change | None:
        def move(connection: Connection) -> Change | None:
            job = job_rows.get(connection, job_id, lock=True)
            return None if job is None else self._commit(connection, job, decide(job.progress))

        return await self._to_the_end(self._write(move))

    async def _write(self, move: Callable[[Connection], Change | None], result: bytes | None = None) -> Change | None:
        change = await self._database.write(move)
        if change is not None:
            if change.ended:
                self._lately_over.add(change.job, result)
            self._told(change)
        return change

    async def _to_the_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Let a change be told even if its caller goes away while it is committed."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        return await asyncio.shield(task)

    def _commit(self, connection: Connection, job: Job, decision: Decision) -> Change:
        now = self._clock()
        after = Job(job.submission, decision.after)
        if decision.after is not job.progress:
            job_rows.save_progress(connection, after, job.progress, tell_again_at=now + self._tell_again_s)
        if decision.entry is not None:
            history_rows.add(connection, job.job_id, decision.entry)
        effects = [effect for effect in decision.effects if self._worth_sending(job.job_id, decision.verdict, effect)]
        outgoing = [row for effect in effects for row in self._outgoing.make(after, effect)]
        rows = outbox_rows.add(connection, outgoing, at=now)
        change = Change(after, job.progress, decision.verdict, now, outgoing=tuple(rows))
        if not change.ended:
            return change
        usage = tuple(history_rows.usage(connection, job.job_id))
        return replace(change, usage=usage)

    def _worth_sending(self, job_id: str, verdict: Verdict, effect: transitions.Effect) -> bool:
        """A fenced-off attempt is told to end once, and again only if it still speaks much later."""
        if verdict is not Verdict.STALE or not isinstance(effect, Stop):
            return True
        key, now = (job_id, effect.attempt, effect.worker_id), self._clock()
        self._stops_sent = {sent: at for sent, at in self._stops_sent.items() if now - at < _STOP_AGAIN_S}
        if key in self._stops_sent:
            return False
        self._stops_sent[key] = now
        return True

    async def _stop_unknown(self, event: JobEvent) -> None:
        """End what runs for a job that is not in the book: the database was set back to an older one."""
        stop = Stop(event.worker_id, event.attempt, Reason.WORKER_LOST)
        if event.kind is EventKind.FINISHED or not self._worth_sending(event.job_id, Verdict.STALE, stop):
            return
        row = self._outgoing.stop(event.job_id, stop)
        await self._database.write(lambda connection: outbox_rows.add(connection, [row], at=self._clock()))


def _first_entry(job: Job) -> Entry:
    progress = job.progress
    return Entry(
        progress.attempt, Source.GATEWAY, progress.revision, -1, job.submission.created_at, progress.state.value
    )


def _without_nul(text: str) -> str:
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _storable(error: ToldError | None) -> ToldError | None:
    return None if error is None else ToldError(*(_without_nul(text) for text in astuple(error)))
