"""The scheduler's reports, as they come."""

from __future__ import annotations

from qonduit_gateway.cluster_view import ClusterView
from qonduit_service_kit.messages import ClusterReport, LeaseKind, Shape, WaitingView, WorkerView


def page(number: int, *, at: float = 1.0, term: int = 1, last: bool = False) -> ClusterReport:
    shape = Shape(1000, 1)
    worker = WorkerView(f"{at:g}-w{number}", "host", shape, shape, 0, draining=False, sandbox_tier="", seen_at=at)
    waiting = WaitingView(f"j{number}", 1, LeaseKind.DRIVER, shape, 1, number, "no room")
    return ClusterReport(term, at, (worker,), (waiting,), 7, number, last)


def names(view: ClusterView) -> list[str]:
    return [worker.worker_id for worker in view.workers]


def test_a_report_counts_once_all_its_pages_are_there_in_any_order() -> None:
    view = ClusterView()
    assert (names(view), view.waiting_total) == ([], 0)
    for part in (page(2, last=True), page(0), page(0)):
        view.update(part)
        assert names(view) == []
    view.update(page(1))
    assert names(view) == ["1-w0", "1-w1", "1-w2"]
    assert [entry.job_id for entry in view.waiting] == ["j0", "j1", "j2"]
    assert view.waiting_total == 7
    assert view.knows("j2", 1)
    assert view.why("j2", 1) == "no room"


def test_a_report_that_lacks_a_page_gives_way_to_the_next_and_older_ones_to_newer() -> None:
    view = ClusterView()
    view.update(page(0, at=1.0, last=True))
    view.update(page(0, at=2.0))
    assert names(view) == ["1-w0"]
    view.update(page(0, at=3.0, last=True))
    view.update(page(1, at=2.0, last=True))
    view.update(page(0, at=3.0, last=True))
    assert names(view) == ["3-w0"]
    view.update(page(0, at=1.0, term=2, last=True))
    assert names(view) == ["1-w0"]
