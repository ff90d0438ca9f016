"""QPUs as users see them: devices, their own QPU jobs and sessions, and how the instances are doing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING

from qonduit_api.v1 import qpu_pb2 as pb

if TYPE_CHECKING:
    from datetime import datetime

    from google.protobuf.message import Message

    from qonduit.connection import Connection

_PAGE = 200
_CHANGE_TIMEOUT_S = 60.0
"""For a job that runs on a device: it is cancelled once the device lets go."""


@dataclass(frozen=True, slots=True)
class Backend:
    """A device."""

    name: str
    qubits: int
    status: str
    """"online", or why not."""
    queue_length: int
    """Jobs that wait for it, as far as known here."""
    simulated: bool


@dataclass(frozen=True, slots=True)
class QpuJob:
    """A QPU job that a program submitted."""

    qpu_job_id: str
    job_id: str
    """The job whose program it was."""
    backend: str
    state: str
    """"Queued", "Running", "Completed", "Failed" or "Cancelled"."""
    program: str
    session_id: str
    created: datetime | None
    started: datetime | None
    ended: datetime | None
    qpu_seconds: float | None
    """Charged for it; None until that is known, which may be some time after its end."""
    reason: str
    """Why it failed or was cancelled."""


@dataclass(frozen=True, slots=True)
class QpuSession:
    """A session or batch that a program opened."""

    session_id: str
    job_id: str
    backend: str
    mode: str
    """"dedicated" or "batch"."""
    state: str
    """"open" before its first job began, "active", "closed", or what a provider says."""
    accepting_jobs: bool
    created: datetime | None
    activated: datetime | None
    closed: datetime | None
    elapsed_s: float
    """How long it held its device so far; of a batch, what its jobs were charged."""
    unfinished_jobs: int


@dataclass(frozen=True, slots=True)
class QpuInstance:
    """How one instance of a provider is doing, or the local devices."""

    name: str
    """"local", or the account's name."""
    instance: str
    """Its CRN; empty for who is no administrator."""
    state: str
    """"ok", "limited" (it takes no more for a while), "failing" (it does not answer), or "refused" (its credentials
    are not accepted)."""
    text: str
    """Why, and what to do."""
    until: datetime | None
    """When it is tried again."""
    in_flight: int
    """Jobs that it has and that have not ended."""


@dataclass(frozen=True, slots=True)
class QpuQueue:
    """How many jobs wait for a device."""

    backend: str
    status: str
    queue_length: int


@dataclass(frozen=True, slots=True)
class QpuStatus:
    """How QPUs are doing, and what the caller has used of them."""

    instances: list[QpuInstance]
    queues: list[QpuQueue]
    qpu_seconds_used: float
    """Charged in the last 28 days."""
    qpu_seconds_limit: float
    """Most that may be charged in any 28 days; 0 for no limit."""


class Qpus:
    """The QPUs behind one server. Every call raises QonduitError, as those of the client do."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def backends(self) -> list[Backend]:
        """Return the devices by name."""
        answer = self._connection.call(lambda to: to.qpus.ListBackends, pb.ListBackendsRequest())
        return [
            Backend(each.name, each.qubits, each.status, each.queue_length, each.simulated) for each in answer.backends
        ]

    def jobs(self, job_id: str = "", *, pending: bool = False, limit: int = 100) -> list[QpuJob]:
        """Return the user's QPU jobs, newest first.

        Args:
            job_id: Only those of this job, all of them and in the order of their submission.
            pending: Only those that have not ended.
            limit: Most to return, unless a job is named.

        Raises:
            JobNotFoundError: There is no such job, or it is somebody else's.
        """
        request = pb.ListQpuJobsRequest(job_id=job_id, pending=pending)
        found: list[QpuJob] = []
        while job_id or len(found) < limit:
            request.page_size = 0 if job_id else min(limit - len(found), _PAGE)
            page = self._connection.call(lambda to: to.qpus.ListQpuJobs, request)
            found += [_job(each) for each in page.qpu_jobs]
            request.page_token = page.next_page_token
            if not page.next_page_token:
                break
        return found

    def sessions(self, *, pending: bool = False, limit: int = 100) -> list[QpuSession]:
        """Return the user's sessions and batches, newest first; with `pending`, those that are not closed."""
        request = pb.ListQpuSessionsRequest(pending=pending)
        found: list[QpuSession] = []
        while len(found) < limit:
            request.page_size = min(limit - len(found), _PAGE)
            page = self._connection.call(lambda to: to.qpus.ListQpuSessions, request)
            found += [_session(each) for each in page.sessions]
            request.page_token = page.next_page_token
            if not page.next_page_token:
                break
        return found

    def status(self) -> QpuStatus:
        """Return how the instances are doing, how many jobs wait for each device, and what the user has used."""
        answer = self._connection.call(lambda to: to.qpus.GetQpuStatus, pb.GetQpuStatusRequest())
        return QpuStatus(
            [
                QpuInstance(each.name, each.instance, each.state, each.text, _moment(each, "until"), each.in_flight)
                for each in answer.instances
            ],
            [QpuQueue(each.backend, each.status, each.queue_length) for each in answer.queues],
            answer.qpu_seconds_used,
            answer.qpu_seconds_limit,
        )

    def cancel(self, qpu_job_id: str) -> QpuJob:
        """Cancel a QPU job and return it as it is then; what ran of it is charged.

        Raises:
            QpuJobNotFoundError: There is none, or it is somebody else's.
            QpuJobOverError: It has ended.
        """
        request = pb.CancelQpuJobRequest(qpu_job_id=qpu_job_id)
        # Not repeated by itself: the second time it would be over, and the first time's success told as a failure.
        answer = self._connection.call(
            lambda to: to.qpus.CancelQpuJob, request, idempotent=False, timeout_s=_CHANGE_TIMEOUT_S
        )
        return _job(answer.qpu_job)

    def close_session(self, session_id: str, *, cancel: bool = False) -> QpuSession:
        """End a session or batch and return it as it is then: it takes no more jobs, and ends with its last one.

        Args:
            session_id: Its id.
            cancel: Cancel what waits in it as well.

        Raises:
            QpuSessionNotFoundError: There is none, or it is somebody else's.
        """
        mode = pb.QPU_SESSION_END_CANCEL if cancel else pb.QPU_SESSION_END_CLOSE
        request = pb.CloseQpuSessionRequest(session_id=session_id, mode=mode)
        answer = self._connection.call(lambda to: to.qpus.CloseQpuSession, request, timeout_s=_CHANGE_TIMEOUT_S)
        return _session(answer.session)


def _job(job: pb.QpuJob) -> QpuJob:
    return QpuJob(
        qpu_job_id=job.qpu_job_id,
        job_id=job.job_id,
        backend=job.backend,
        state=job.state,
        program=job.program,
        session_id=job.session_id,
        created=_moment(job, "create_time"),
        started=_moment(job, "start_time"),
        ended=_moment(job, "end_time"),
        qpu_seconds=job.qpu_seconds if job.qpu_seconds_final else None,
        reason=job.reason,
    )


def _session(session: pb.QpuSession) -> QpuSession:
    return QpuSession(
        session_id=session.session_id,
        job_id=session.job_id,
        backend=session.backend,
        mode=session.mode,
        state=session.state,
        accepting_jobs=session.accepting_jobs,
        created=_moment(session, "create_time"),
        activated=_moment(session, "activate_time"),
        closed=_moment(session, "close_time"),
        elapsed_s=session.elapsed_seconds,
        unfinished_jobs=session.unfinished_jobs,
    )


def _moment(message: Message, field: str) -> datetime | None:
    if not message.HasField(field):
        return None
    found: datetime = getattr(message, field).ToDatetime(tzinfo=UTC)
    return found
