"""What a program says about tasks, read without trust."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from qonduit_service_kit.messages import INLINE_LIMIT_BYTES, Shape, SubmittedTask, TaskFunction, TaskInput, TaskResult

from qonduit_worker.blob_names import is_name

if TYPE_CHECKING:
    from collections.abc import Mapping

REFUSED: Final = "REFUSED"
"""The outcome of a call that made no sense."""
ID_CHARACTERS: Final = 64
NAME_CHARACTERS: Final = 200
MOST_TASKS_IN_A_CALL: Final = 10_000
MOST_INPUTS: Final = 10_000
MOST_APART: Final = 10_000
_MOST_AMOUNT: Final = 2**60
_MOST_RETRIES: Final = 1_000_000
_MOST_TIMEOUT_S: Final = 10.0**9
_FIELDS_OF_A_TASK: Final = 5
_FIELDS_OF_AN_INPUT: Final = 3


class BadTaskError(ValueError):
    """The program sent a task that makes no sense; the text says what is wrong with it."""


def read_function(fields: Mapping[str, Any]) -> TaskFunction:
    """Return a function that a program defines; raises BadTaskError."""
    retries, timeout_s = fields.get("max_retries", 3), fields.get("timeout_s", 0.0)
    if not _is_amount(retries) or retries > _MOST_RETRIES:
        raise BadTaskError(f"max_retries is a whole number up to {_MOST_RETRIES}")
    if not isinstance(timeout_s, (int, float)) or not 0 <= timeout_s <= _MOST_TIMEOUT_S:
        raise BadTaskError("timeout is a number of seconds")
    code, digest = _bytes_or_digest(fields.get("code"), fields.get("code_digest", ""))
    return TaskFunction(
        function_id=read_id(fields.get("function_id")),
        name=str(fields.get("name", ""))[:NAME_CHARACTERS],
        shape=_shape_of(fields),
        max_retries=retries,
        timeout_s=float(timeout_s),
        code=code,
        code_digest=digest,
    )


def read_tasks(fields: Mapping[str, Any]) -> tuple[SubmittedTask, ...]:
    """Return the calls of one function that a program submits; raises BadTaskError."""
    tasks = fields.get("tasks")
    if not isinstance(tasks, list) or len(tasks) > MOST_TASKS_IN_A_CALL:
        raise BadTaskError(f"tasks must be a list of at most {MOST_TASKS_IN_A_CALL}")
    function_id = read_id(fields.get("function"))
    return tuple(_task(task, function_id) for task in tasks)


def refusals(fields: Mapping[str, Any], error: BadTaskError) -> list[TaskResult]:
    """Return the answers to calls that `read_tasks` has refused, as far as they can be told apart."""
    tasks = fields.get("tasks")
    ids = [task[0] for task in tasks if isinstance(task, list) and task] if isinstance(tasks, list) else []
    return [TaskResult(task_id, REFUSED, text=str(error)) for task_id in ids if isinstance(task_id, str)]


def _task(task: object, function_id: str) -> SubmittedTask:
    if not isinstance(task, list) or len(task) != _FIELDS_OF_A_TASK:
        raise BadTaskError("a task is a list: its id, call, the call's digest, inputs, what was stored apart")
    task_id, call, digest, inputs, apart = task
    call, digest = _bytes_or_digest(call, digest)
    if not isinstance(inputs, list) or len(inputs) > MOST_INPUTS:
        raise BadTaskError(f"a task has at most {MOST_INPUTS} other tasks among its arguments")
    if not isinstance(apart, list) or len(apart) > MOST_APART or not all(map(_is_stored, apart)):
        raise BadTaskError(f"what a task stored apart is a list of at most {MOST_APART} digests")
    return SubmittedTask(read_id(task_id), function_id, call, digest, tuple(map(_input, inputs)), tuple(apart))


def _input(given: object) -> TaskInput:
    if not isinstance(given, list) or len(given) != _FIELDS_OF_AN_INPUT:
        raise BadTaskError("an input is a list of a task's id, a value and the value's digest")
    task_id, value, digest = given
    if task_id:
        return TaskInput(read_id(task_id))
    value, digest = _bytes_or_digest(value, digest)
    return TaskInput("", value, digest)


def read_id(value: object) -> str:
    """Return an id of a task or a function; raises BadTaskError."""
    if not isinstance(value, str) or not 0 < len(value) <= ID_CHARACTERS:
        raise BadTaskError(f"an id has 1 to {ID_CHARACTERS} characters")
    return value


def read_ids(value: object) -> tuple[str, ...]:
    """Return a list of ids; raises BadTaskError."""
    if not isinstance(value, list) or len(value) > MOST_TASKS_IN_A_CALL:
        raise BadTaskError(f"tasks must be a list of at most {MOST_TASKS_IN_A_CALL} ids")
    return tuple(map(read_id, value))


def _bytes_or_digest(value: object, digest: object) -> tuple[bytes | None, str]:
    if isinstance(value, bytes) and not digest:
        if len(value) > INLINE_LIMIT_BYTES:
            raise BadTaskError(f"{len(value)} bytes are too many for a message: store them, and send their digest")
        return value, ""
    if value is None and isinstance(digest, str) and is_name(digest):
        return None, digest
    raise BadTaskError("there must be either bytes or the digest of bytes that were stored")


def _is_stored(digest: object) -> bool:
    return isinstance(digest, str) and is_name(digest)


def _shape_of(fields: Mapping[str, Any]) -> Shape:
    amounts = [fields.get("cpu_millis"), fields.get("mem_bytes"), fields.get("gpus", 0)]
    if not all(map(_is_amount, amounts)):
        raise BadTaskError("a task's target has cpu_millis, mem_bytes and gpus as whole numbers")
    shape = Shape(*amounts)
    if shape.cpu_millis < 1 or shape.mem_bytes < 1:
        raise BadTaskError("a task's target must ask for some cpu and some memory")
    return shape


def _is_amount(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_AMOUNT
