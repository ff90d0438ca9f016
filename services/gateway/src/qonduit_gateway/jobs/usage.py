"""What a job used, put together from the workers' reports, the QPU broker's charges and the history."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qonduit_service_kit.messages import Stage

from qonduit_gateway.jobs.model import JobState, status_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from qonduit_service_kit.messages import StageUsage

    from qonduit_gateway.jobs.model import Entry

_ON_QPU = status_text(JobState.RUNNING, Stage.EXECUTING_QPU)
_WAITING = (JobState.QUEUED.value, JobState.INITIALIZING.value)


@dataclass(frozen=True, slots=True)
class StatusUsage:
    """Totals of one status over all attempts."""

    status: str
    wall_s: float = 0.0
    cpu_s: float = 0.0
    qpu_s: float = 0.0
    peak_mem_bytes: int = 0


def usage_by_status(
    history: Sequence[Entry], reports: Iterable[StageUsage], *, qpu_s: float, now: float
) -> tuple[StatusUsage, ...]:
    """Sum the attempts' reports by status, in the order in which the statuses first appeared.

    Time on the clock is read from the history, so that the bill and the timeline agree, also for an attempt whose
    worker was lost; what a program burned comes from its worker's reports. QPU seconds are what the job was charged
    and belong to EXECUTING_QPU, also if no worker lived to say that the job was in that stage.
    """
    totals = {entry.status: StatusUsage(entry.status) for entry in history if _billable(entry.status)}
    for status, seconds in _spans(history, now):
        totals[status] = replace(totals[status], wall_s=totals[status].wall_s + seconds)
    for report in reports:
        status = status_text(JobState.RUNNING, report.stage)
        totals[status] = _added(totals.get(status, StatusUsage(status)), report)
    if qpu_s:
        totals[_ON_QPU] = replace(totals.get(_ON_QPU, StatusUsage(_ON_QPU)), qpu_s=qpu_s)
    return tuple(totals.values())


def total(stages: Iterable[StatusUsage]) -> StatusUsage:
    """Sum over statuses; of the memory peaks, take the highest."""
    result = StatusUsage("TOTAL")
    for stage in stages:
        result = StatusUsage(
            status=result.status,
            wall_s=result.wall_s + stage.wall_s,
            cpu_s=result.cpu_s + stage.cpu_s,
            qpu_s=result.qpu_s + stage.qpu_s,
            peak_mem_bytes=max(result.peak_mem_bytes, stage.peak_mem_bytes),
        )
    return result


def _billable(status: str) -> bool:
    return status in _WAITING or status.startswith(JobState.RUNNING.value)


def _spans(history: Sequence[Entry], now: float) -> Iterable[tuple[str, float]]:
    ends = [entry.at for entry in history[1:]] + [now]
    for entry, end in zip(history, ends, strict=False):
        if _billable(entry.status):
            # Two machines' clocks meet here: a negative difference is skew.
            yield entry.status, max(0.0, end - entry.at)


def _added(so_far: StatusUsage, report: StageUsage) -> StatusUsage:
    return replace(
        so_far,
        cpu_s=so_far.cpu_s + report.cpu_s,
        peak_mem_bytes=max(so_far.peak_mem_bytes, report.peak_mem_bytes),
    )
