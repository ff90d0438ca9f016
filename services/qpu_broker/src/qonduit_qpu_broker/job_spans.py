"""QPU jobs as spans of their program's trace: each as a whole, its wait, and its time on the device."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from qonduit_service_kit import tracing
from qonduit_service_kit.messages import QpuState

if TYPE_CHECKING:
    from qonduit_qpu_broker.ledger.records import JobRecord


def tell(job: JobRecord, charged_s: float | None) -> None:
    """Tell a job that is over; a broker that dies just then costs a span."""
    if not job.traceparent:
        return
    ended_at = job.finished_at or time.time()
    tracing.tell(
        "QPU job",
        job.created_at,
        ended_at,
        parent=job.traceparent,
        of=job.qpu_job_id,
        error=job.reason or job.state.value if job.state is QpuState.FAILED else "",
        qpu_job_id=job.qpu_job_id,
        backend=job.backend,
        program=job.program,
        state=job.state.value,
        **({} if charged_s is None else {"qpu_seconds": charged_s}),
    )
    under = tracing.child_of(job.traceparent, job.qpu_job_id)
    began_at = job.running_at or ended_at
    tracing.tell("waiting for QPU", job.created_at, began_at, parent=under)
    if job.running_at is not None:
        tracing.tell("executing on QPU", began_at, ended_at, parent=under)
