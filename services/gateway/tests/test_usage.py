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
    reports = [StageUsage(Stage.NONE, 7, 1, 0, 50), StageUsage(Stage.MAPPING, 5, 2, 9.0, 80)]

    stages = usage_by_status(history, reports, qpu_s=0.0, now=100)

    assert [(each.status, each.wall_s, each.cpu_s) for each in stages] == [
        ("QUEUED", 3, 0),
        ("INITIALIZING", 5, 0),
        ("RUNNING", 7, 1),
        ("RUNNING: MAPPING", 5, 2),
    ]
    whole = total(stages)
    assert (whole.wall_s, whole.cpu_s, whole.peak_mem_bytes) == (20, 3, 80)
    assert whole.qpu_s == 0, "what a worker says of QPU seconds is not billed"


def test_a_job_that_still_waits_has_waited_until_now_and_skewed_clocks_give_no_negative_time() -> None:
    assert usage_by_status([entry("QUEUED", 10)], [], qpu_s=0.0, now=14)[0].wall_s == 4
    skewed = [entry("QUEUED", 10), entry("INITIALIZING", 9)]
    assert usage_by_status(skewed, [], qpu_s=0.0, now=9)[0].wall_s == 0


def test_the_bill_of_a_lost_attempt_agrees_with_the_timeline() -> None:
    history = [
        entry("QUEUED", 0),
        entry("RUNNING", 1),
        entry("RUNNING: MAPPING", 3),
        entry("QUEUED", 13),
        entry("RUNNING", 15),
        entry("DONE", 20),
    ]
    stages = usage_by_status(history, [], qpu_s=0.0, now=100)
    assert [(each.status, each.wall_s) for each in stages] == [("QUEUED", 3), ("RUNNING", 7), ("RUNNING: MAPPING", 10)]
    assert total(stages).wall_s == 20


def test_qpu_seconds_are_those_charged_and_belong_to_the_stage_on_the_qpu() -> None:
    history = [entry("QUEUED", 0), entry("RUNNING", 1), entry("RUNNING: EXECUTING_QPU", 3), entry("DONE", 5)]
    stages = usage_by_status(history, [StageUsage(Stage.EXECUTING_QPU, 2, 0.5)], qpu_s=1.25, now=100)
    on_qpu = stages[-1]
    assert (on_qpu.status, on_qpu.wall_s, on_qpu.cpu_s, on_qpu.qpu_s) == ("RUNNING: EXECUTING_QPU", 2, 0.5, 1.25)
    assert total(stages).qpu_s == 1.25


def test_what_was_charged_is_billed_also_where_no_worker_lived_to_tell_of_the_stage() -> None:
    stages = usage_by_status([entry("QUEUED", 0), entry("ERROR", 3)], [], qpu_s=0.75, now=100)
    assert [(each.status, each.wall_s, each.qpu_s) for each in stages] == [
        ("QUEUED", 3, 0),
        ("RUNNING: EXECUTING_QPU", 0, 0.75),
    ]
