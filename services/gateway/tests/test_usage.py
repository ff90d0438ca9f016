"""The bill of a job."""

from __future__ import annotations

from qonduit_gateway.jobs.model import Entry, Source
from qonduit_gateway.jobs.usage import total, usage_by_status
from qonduit_service_kit.messages import Stage, StageUsage


def entry(status: str, at: float, attempt: int = 1) -> Entry:
    return Entry(attempt, Source.GATEWAY, 0, 0, at, status)


def test_waiting_comes_from_the_history_and_work_from_the_reports() -> None:
    history = [
        entry("QUEUED", 0),
        entry("INITIALIZING", 2),
        entry("RUNNING", 3),
        entry("QUEUED", 10, 2),
        entry("INITIALIZING", 11, 2),
        entry("RUNNING: MAPPING", 15, 2),
        entry("DONE", 20, 2),
    ]
    reports = [StageUsage(Stage.NONE, 7, 1, 0, 50), StageUsage(Stage.MAPPING, 5, 2, 0.5, 80)]

    stages = usage_by_status(history, reports, now=100)

    assert [(each.status, each.wall_s, each.cpu_s) for each in stages] == [
        ("QUEUED", 3, 0),
        ("INITIALIZING", 5, 0),
        ("RUNNING", 7, 1),
        ("RUNNING: MAPPING", 5, 2),
    ]
    whole = total(stages)
    assert (whole.wall_s, whole.cpu_s, whole.qpu_s, whole.peak_mem_bytes) == (20, 3, 0.5, 80)


def test_a_job_that_still_waits_has_waited_until_now_and_skewed_clocks_give_no_negative_time() -> None:
    assert usage_by_status([entry("QUEUED", 10)], [], now=14)[0].wall_s == 4
    assert usage_by_status([entry("QUEUED", 10), entry("INITIALIZING", 9)], [], now=9)[0].wall_s == 0


def test_the_bill_of_a_lost_attempt_agrees_with_the_timeline() -> None:
    history = [
        entry("QUEUED", 0),
        entry("RUNNING", 1),
        entry("RUNNING: MAPPING", 3),
        entry("QUEUED", 13),
        entry("RUNNING", 15),
        entry("DONE", 20),
    ]
    stages = usage_by_status(history, [], now=100)
    assert [(each.status, each.wall_s) for each in stages] == [("QUEUED", 3), ("RUNNING", 7), ("RUNNING: MAPPING", 10)]
    assert total(stages).wall_s == 20
