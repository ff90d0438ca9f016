"""The ends of tasks, as programs are told them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

from qonduit_service_kit.messages import TaskReply, TaskResult

if TYPE_CHECKING:
    from collections.abc import Iterable

Ended = TypeVar("Ended", TaskReply, TaskResult)

MOST_BYTES: Final = 48 * 1024
"""Of the values in one message."""


def row_of(result: TaskResult) -> list[Any]:
    """Return a result as the program's end of the channel reads it."""
    return [result.task_id, str(result.outcome), result.value, result.value_digest, result.text]


def in_parts(results: list[Ended]) -> Iterable[list[Ended]]:
    """Split results, in their order, into lists that each fit in a message."""
    part: list[Ended] = []
    size_bytes = 0
    for result in results:
        own_bytes = len(result.value or b"") + len(result.text)
        if part and size_bytes + own_bytes > MOST_BYTES:
            yield part
            part, size_bytes = [], 0
        part.append(result)
        size_bytes += own_bytes
    if part:
        yield part
