"""Turns the effects of a decision into rows of the outbox."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, assert_never

from qonduit_service_kit import spaces
from qonduit_service_kit.codec import encode, wire_type
from qonduit_service_kit.messages import (
    QPU_BROKER,
    SCHEDULER,
    Address,
    JobSpec,
    JobSubmitted,
    JobWithdrawn,
    ProgramEnded,
    Reason,
    StopAttempt,
    UserLimited,
    worker,
)
from qonduit_service_kit.tickets import Ticket

from qonduit_gateway.database.outbox_rows import Lane, Outgoing
from qonduit_gateway.job_spans import place_of
from qonduit_gateway.jobs.transitions import Announce, CloseLog, EndQpuWork, Stop, Withdraw

if TYPE_CHECKING:
    from collections.abc import Callable

    from qonduit_service_kit.messages import Shape
    from qonduit_service_kit.tickets import TicketSigner

    from qonduit_gateway.database.user_rows import User
    from qonduit_gateway.jobs.model import Job, UserLimit
    from qonduit_gateway.jobs.transitions import Effect

_TICKET_MARGIN_S = 24 * 3600.0
_NOWHERE = Address("", "")
DELETE_LOG = "delete"
"""Type of a row of the logs' lane; without one the log is closed."""


class OutgoingFactory:
    """Makes what is sent about jobs."""

    def __init__(
        self,
        signer: TicketSigner,
        *,
        limit: Shape,
        clock: Callable[[], float],
        limit_qpu_seconds: float = 0.0,
        limit_file_bytes: int = 0,
        limit_running_jobs: int = 0,
    ) -> None:
        self._signer = signer
        self._limit = limit
        self._limit_qpu_seconds = limit_qpu_seconds
        self._limit_file_bytes = limit_file_bytes
        self._limit_running_jobs = limit_running_jobs
        self._clock = clock

    def make(self, job: Job, effect: Effect) -> list[Outgoing]:
        """Return the outbox rows for one effect on a job."""
        match effect:
            case Announce():
                return [self._message(job, SCHEDULER, JobSubmitted(self.spec(job)), f"submit.{job.progress.attempt}")]
            case Withdraw(attempt):
                return [self._message(job, SCHEDULER, JobWithdrawn(job.job_id, attempt), f"withdraw.{attempt}")]
            case Stop():
                return [self.stop(job.job_id, effect)]
            case CloseLog():
                return [Outgoing(Lane.LOG, f"{log}.close", _NOWHERE, "", log.encode()) for log in _logs(job)]
            case EndQpuWork(attempt):
                return [self._message(job, QPU_BROKER, ProgramEnded(job.job_id, attempt, last=True), "qpu")]
            case _:
                assert_never(effect)

    def delete_logs(self, job: Job) -> list[Outgoing]:
        """Return the outbox rows that have storage delete what a job told its user, and its provider."""
        return [Outgoing(Lane.LOG, f"{log}.delete", _NOWHERE, DELETE_LOG, log.encode()) for log in _logs(job)]

    def stop(self, job_id: str, effect: Stop) -> Outgoing:
        """Return the outbox row that tells a worker to end an attempt."""
        # What is fenced off has no claim to a farewell: its successor may be starting.
        grace_s = 0.0 if effect.cause is Reason.WORKER_LOST else 5.0
        body = StopAttempt(job_id, effect.attempt, effect.cause, grace_s)
        message_id = f"{job_id}.stop.{effect.attempt}"
        return Outgoing(Lane.BUS, message_id, worker(effect.worker_id), wire_type(body), encode(body))

    def user_limited(self, user: User) -> Outgoing:
        """Return the outbox row that tells the scheduler how many of a user's jobs may have a place from now on."""
        body = UserLimited(user.name, self._running_jobs(user.limit))
        return Outgoing(Lane.BUS, f"user.{uuid.uuid4()}", SCHEDULER, wire_type(body), encode(body))

    def spec(self, job: Job) -> JobSpec:
        """Return what is needed to place and run the job's present attempt, with a fresh ticket."""
        asked = job.submission
        return JobSpec(
            job_id=job.job_id,
            attempt=job.progress.attempt,
            user=asked.owner,
            function_title=asked.program.title,
            function_version=asked.program.version,
            artifact_digest=asked.program.artifact_digest,
            entrypoint=asked.program.entrypoint,
            arguments_digest=asked.arguments_digest,
            shape=asked.shape,
            time_limit_s=asked.time_limit_s,
            submitted_at=asked.created_at,
            storage_ticket=self._ticket(job),
            environment=dict(asked.program.environment),
            dependencies=asked.program.dependencies,
            priority=asked.priority,
            limit=asked.limit.over(self._limit),
            qpu_budget_s=asked.qpu_budget_s,
            user_qpu_budget_s=asked.limit.qpu_seconds_over(self._limit_qpu_seconds) or None,
            files=asked.files,
            traceparent=place_of(job),
            provider=asked.program.provider,
            trial=asked.trial,
            space=asked.space if asked.program.provider else "",
            provider_space=_provider_space(job),
            user_running_jobs=self._running_jobs(asked.limit),
        )

    def _running_jobs(self, limit: UserLimit) -> int | None:
        return limit.running_jobs_over(self._limit_running_jobs) or None

    def _ticket(self, job: Job) -> str:
        asked = job.submission
        ticket = Ticket(
            user=asked.owner,
            expires_at=self._clock() + asked.time_limit_s + _TICKET_MARGIN_S,
            job_id=job.job_id,
            read_space=asked.space,
            write_space=asked.space,
            write_limit_bytes=asked.limit.file_bytes_over(self._limit_file_bytes),
            blobs="rw",
            log=job.job_id,
            provider_space=_provider_space(job),
            provider_log=spaces.provider_log(job.job_id) if asked.program.provider else "",
        )
        return self._signer.sign(ticket)

    def _message(self, job: Job, to: Address, body: object, kind: str) -> Outgoing:
        return Outgoing(Lane.BUS, f"{job.job_id}.{kind}", to, wire_type(body), encode(body))


def _provider_space(job: Job) -> str:
    program = job.submission.program
    return spaces.of_provider(program.provider, program.title) if program.provider else ""


def _logs(job: Job) -> list[str]:
    """Return the keys of a job's logs: its user's, and its provider's."""
    of_provider = [spaces.provider_log(job.job_id)] if job.submission.program.provider else []
    return [job.job_id, *of_provider]
