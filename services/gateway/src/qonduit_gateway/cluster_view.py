"""The scheduler's latest picture of the cluster, kept in memory only."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from qonduit_service_kit.messages import LeaseKind

if TYPE_CHECKING:
    from qonduit_service_kit.messages import ClusterReport, WaitingView, WorkerView

_NEVER = (-1, 0.0)


class ClusterView:
    """What the scheduler said last; empty until it speaks."""

    def __init__(self) -> None:
        self._made_at = self._coming_at = _NEVER
        """Term and time of the report at hand, and of the one of which pages are at hand."""
        self._pages: dict[int, ClusterReport] = {}
        self._workers: tuple[WorkerView, ...] = ()
        self._waiting: tuple[WaitingView, ...] = ()
        self._waiting_total = 0
        self._drivers: dict[tuple[str, int], WaitingView] = {}
        self.next_report = asyncio.Event()
        """Set once a newer report is at hand; the next one has an event of its own."""

    def update(self, report: ClusterReport) -> None:
        """Take a page of a report, unless older than what is at hand; the report counts once all of it is there."""
        made_at = (report.term, report.at)
        if made_at < self._coming_at or made_at == self._made_at:
            return
        if made_at > self._coming_at:
            self._coming_at, self._pages = made_at, {}
        self._pages[report.page] = report
        count = next((page.page + 1 for page in self._pages.values() if page.last), 0)
        if not count or len(self._pages) < count:
            return
        pages = [self._pages[number] for number in range(count)]
        self._made_at, self._pages = made_at, {}
        self._workers = tuple(view for page in pages for view in page.workers)
        self._waiting = tuple(view for page in pages for view in page.waiting)
        self._waiting_total = report.waiting_total
        self._drivers = {(view.job_id, view.attempt): view for view in self._waiting if view.kind is LeaseKind.DRIVER}
        self.next_report.set()
        self.next_report = asyncio.Event()

    @property
    def workers(self) -> tuple[WorkerView, ...]:
        """The workers by id."""
        return tuple(sorted(self._workers, key=lambda view: view.worker_id))

    @property
    def waiting(self) -> tuple[WaitingView, ...]:
        """What waits, in the order in which it would be placed."""
        return self._waiting

    @property
    def waiting_total(self) -> int:
        """How many wait in all; the report lists only so many."""
        return max(self._waiting_total, len(self._waiting))

    def knows(self, job_id: str, attempt: int) -> bool:
        """Tell whether the scheduler lists an attempt as waiting."""
        return (job_id, attempt) in self._drivers

    def why(self, job_id: str, attempt: int) -> str:
        """Return why an attempt waits, or nothing if the scheduler has not said."""
        view = self._drivers.get((job_id, attempt))
        return "" if view is None else view.why
