"""The scheduler's latest picture of the cluster, kept in memory only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qonduit_service_kit.messages import LeaseKind

if TYPE_CHECKING:
    from qonduit_service_kit.messages import ClusterReport, WaitingView, WorkerView


class ClusterView:
    """What the scheduler said last; empty until it speaks."""

    def __init__(self) -> None:
        self._report: ClusterReport | None = None
        self._drivers: dict[tuple[str, int], WaitingView] = {}

    def update(self, report: ClusterReport) -> None:
        """Take a report unless it is older than the one at hand."""
        if self._report is not None and (report.term, report.at) < (self._report.term, self._report.at):
            return
        self._report = report
        self._drivers = {(view.job_id, view.attempt): view for view in report.waiting if view.kind is LeaseKind.DRIVER}

    @property
    def workers(self) -> tuple[WorkerView, ...]:
        """The workers by id."""
        if self._report is None:
            return ()
        return tuple(sorted(self._report.workers, key=lambda view: view.worker_id))

    @property
    def waiting(self) -> tuple[WaitingView, ...]:
        """What waits, in the order in which it would be placed."""
        return () if self._report is None else self._report.waiting

    @property
    def waiting_total(self) -> int:
        """How many wait in all; the report lists only so many."""
        return 0 if self._report is None else max(self._report.waiting_total, len(self._report.waiting))

    def knows(self, job_id: str, attempt: int) -> bool:
        """Tell whether the scheduler lists an attempt as waiting."""
        return (job_id, attempt) in self._drivers

    def why(self, job_id: str, attempt: int) -> str:
        """Return why an attempt waits, or nothing if the scheduler has not said."""
        view = self._drivers.get((job_id, attempt))
        return "" if view is None else view.why
