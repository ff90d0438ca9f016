"""What is done for a lease: in its job's trace, and with the job and the attempt in every line of the log."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
from qonduit_service_kit import tracing
from qonduit_service_kit.messages import DriverGranted, ExecutorGranted

if TYPE_CHECKING:
    from collections.abc import Awaitable


async def belonging(grant: DriverGranted | ExecutorGranted, worker_id: str, work: Awaitable[None]) -> None:
    """Do the work of a lease, from its grant to its end."""
    if isinstance(grant, DriverGranted):
        job_id, attempt, job = grant.spec.job_id, grant.spec.attempt, grant.spec.traceparent
    else:
        job_id, attempt, job = grant.job_id, grant.attempt, grant.traceparent
    of = f"{job_id}.{attempt}"  # So that executors anywhere know the place of their driver's attempt.
    with structlog.contextvars.bound_contextvars(job=job_id, attempt=attempt):
        if not job:
            await work
        elif isinstance(grant, DriverGranted):
            with tracing.span(f"attempt {attempt}", parent=job, of=of, worker_id=worker_id):
                await work
        else:
            with tracing.span("executor", parent=tracing.child_of(job, of), worker_id=worker_id):
                await work
