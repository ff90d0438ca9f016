from __future__ import annotations

from dataclasses import replace

import msgpack
from qonduit_service_kit.codec import encode
from qonduit_service_kit.messages import TASKS_A_PAGE, Shape, Stage, TaskRecord, TasksPage, TaskState
from qonduit_service_kit.task_pages import packed, unpacked

RECORD = TaskRecord(
    task_id="0123456789abcdef0123456789abcdef",
    name="transpile_remote",
    state=TaskState.DONE,
    attempt=2,
    number=7,
    shape=Shape(500, 2**30, 1),
    stage=Stage.MAPPING,
    parent_id="fedc",
    worker_id="w1",
    queued_at=1.5,
    started_at=2.5,
    ended_at=4.0,
    cpu_s=1.25,
    peak_mem_bytes=2**28,
    text="why",
)


def page(*records: TaskRecord) -> TasksPage:
    return TasksPage("j", 1, 3, 9, records)


def test_records_come_back_as_they_were() -> None:
    queued = TaskRecord("t", "f", TaskState.QUEUED, 1, 8, Shape(1000, 1), Stage.NONE)
    sent = packed(page(RECORD, queued, RECORD))
    assert unpacked(sent.packed) == (RECORD, queued, RECORD)
    assert sent.counts == {"DONE": 2, "QUEUED": 1}
    assert (sent.job_id, sent.job_attempt, sent.page, sent.revision) == ("j", 1, 3, 9)


def test_what_a_newer_sender_adds_is_left_out() -> None:
    rows = [[*row, "added later"] for row in msgpack.unpackb(packed(page(RECORD)).packed)]
    assert unpacked(msgpack.packb(rows)) == (RECORD,)


def test_a_full_page_of_failures_with_long_names_and_texts_fits_a_message() -> None:
    worst = replace(RECORD, worker_id="w" * 100, name="\N{SNOWMAN}" * 500, text="\N{SNOWMAN}" * 500)
    sent = packed(page(*(replace(worst, number=number) for number in range(TASKS_A_PAGE))))
    assert len(encode(sent)) < 64 * 1024
    assert [record.number for record in unpacked(sent.packed)] == list(range(TASKS_A_PAGE))


def test_texts_are_kept_where_they_fit() -> None:
    (record,) = unpacked(packed(page(replace(RECORD, text="x" * 500))).packed)
    assert record.text == "x" * 200
