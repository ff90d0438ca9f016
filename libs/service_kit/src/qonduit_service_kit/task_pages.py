"""Pages of task records as few bytes, which pass through the gateway undecoded until somebody wants to see them.

A job may have a hundred thousand tasks of a millisecond each. As maps of named fields their records would take twice
the bytes, and as objects ten times the time.
"""

from __future__ import annotations

from collections import Counter
from operator import attrgetter
from typing import Any, Final

import msgpack

from qonduit_service_kit.messages import PackedTasksPage, Shape, Stage, TaskRecord, TasksPage, TaskState

PACKED_LIMIT_BYTES: Final = 60 * 1024
"""Most bytes of a page's records, so that the message stays under 64 KiB."""

_values = attrgetter(
    "task_id",
    "name",
    "state",
    "attempt",
    "number",
    "shape.cpu_millis",
    "shape.mem_bytes",
    "shape.gpus",
    "stage",
    "parent_id",
    "worker_id",
    "queued_at",
    "started_at",
    "ended_at",
    "cpu_s",
    "peak_mem_bytes",
    "text",
)
_NAME, _TEXT, _LEN = 1, 16, 17
_LIMITS: Final = ((100, 200), (100, 60), (60, 0), (12, 0))
"""Characters of a name and of a text: the first pair that lets a page fit."""


def packed(page: TasksPage) -> PackedTasksPage:
    """Return a page as it travels; long names and texts are cut, shorter where a page would not fit otherwise."""
    rows = [_values(record) for record in page.tasks]
    body = b""
    for name_chars, text_chars in _LIMITS:
        rows = [_cut(row, name_chars, text_chars) for row in rows]
        body = msgpack.packb(rows)
        if len(body) <= PACKED_LIMIT_BYTES:
            break
    counts = {str(state): count for state, count in Counter(record.state for record in page.tasks).items()}
    return PackedTasksPage(page.job_id, page.job_attempt, page.page, page.revision, counts, body)


def unpacked(body: bytes) -> tuple[TaskRecord, ...]:
    """Return the records in the bytes of a page; values that a newer sender added are left out."""
    return tuple(_record(row[:_LEN]) for row in msgpack.unpackb(body))


def _cut(row: tuple[Any, ...], name_chars: int, text_chars: int) -> tuple[Any, ...]:
    name, text = row[_NAME], row[_TEXT]
    if len(name) <= name_chars and len(text) <= text_chars:
        return row
    return (*row[:_NAME], name[:name_chars], *row[_NAME + 1 : _TEXT], text[:text_chars])


def _record(row: list[Any]) -> TaskRecord:
    task_id, name, state, attempt, number, cpu_millis, mem_bytes, gpus, stage, *others = row
    shape = Shape(cpu_millis, mem_bytes, gpus)
    return TaskRecord(task_id, name, TaskState(state), attempt, number, shape, Stage(stage), *others)
