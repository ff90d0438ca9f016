"""Jobs as spans of a trace: each as a whole, and its time in the queue."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qonduit_service_kit import tracing

from qonduit_gateway.jobs.model import JobState

if TYPE_CHECKING:
    from qonduit_gateway.jobs.model import Job
    from qonduit_gateway.ledger import Change


def place_of(job: Job) -> str:
    """Return a job's place in its trace, the same in every gateway; what is done for it is below."""
    under = job.submission.traceparent
    return tracing.child_of(under, job.job_id) if under else tracing.NOWHERE


def observe(change: Change) -> None:
    """Tell what is over with a change of a job. A gateway that dies just then costs a span."""
    job, before, after = change.job, change.before, change.job.progress
    if not tracing.enabled() or before is None or not job.submission.traceparent:
        return
    if before.state is JobState.QUEUED and after.state is not JobState.QUEUED:
        tracing.tell("queued", before.queued_at, change.at, parent=place_of(job), attempt=before.attempt)
    if change.ended:
        tracing.tell(
            "job",
            job.submission.created_at,
            change.at if after.ended_at is None else after.ended_at,
            parent=job.submission.traceparent,
            of=job.job_id,
            error=after.error_text or "ERROR" if after.state is JobState.ERROR else "",
            job_id=job.job_id,
            function=job.submission.program.title,
            user=job.submission.owner,
            state=after.state.value,
            reason=after.reason.value,
            attempts=after.attempt,
        )
