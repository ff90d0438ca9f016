"""An executor: a process that runs one task after another until its agent ends it."""

from __future__ import annotations

import functools
import os
import queue
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qonduit.program import pickling
from qonduit.program.blobs import fetch_blob, store_blob
from qonduit.program.channel import GONE, AgentChannel, agent
from qonduit.program.tasks import INLINE_CALL_BYTES, ObjectReference, fetch_object, function_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_ERROR_TEXT = 16_000
"""Characters of a task's traceback; its end tells most."""


def run_executor() -> None:
    """Take tasks from the agent and send back what they give; called in the sandbox, returns when told to end."""
    channel = agent()
    tasks: queue.SimpleQueue[Mapping[str, Any] | None] = queue.SimpleQueue()
    channel.on_push("task_run", tasks.put)
    for end in ("executor_end", GONE):
        channel.on_push(end, lambda _: tasks.put(None))
    channel.call("executor_ready")
    while (task := tasks.get()) is not None:
        channel.call("task_result", task_id=task["task_id"], attempt=task["attempt"], **_run(channel, task))


def _run(channel: AgentChannel, task: Mapping[str, Any]) -> dict[str, Any]:
    try:
        function, args, kwargs = _decode(channel, task)
        value = _encode_value(function(*args, **kwargs), function)
    except BaseException as error:  # noqa: BLE001 - Whatever a task raises, SystemExit too, is the task's value.
        return {"outcome": "ERROR", "text": _user_traceback(error), **_carried(channel, _encode_error(error))}
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return {"outcome": "OK", "text": "", **_carried(channel, value)}


def _decode(
    channel: AgentChannel, task: Mapping[str, Any]
) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    call = task["call"] if task["call"] is not None else fetch_blob(channel, task["call_digest"])
    encoded, arguments = pickling.loads(call)
    args, kwargs = pickling.loads(arguments)
    return _function(function_digest(encoded), encoded), _given(args), _given(kwargs)


_functions: dict[str, Callable[..., Any]] = {}


def _function(digest: str, encoded: bytes) -> Callable[..., Any]:
    """Decode a function once a process: what it keeps in its globals stays warm from task to task."""
    if digest not in _functions:
        _functions[digest] = pickling.loads(encoded)
    return _functions[digest]


def _given(value: Any) -> Any:
    """Replace references made by `put` with their values."""
    if isinstance(value, ObjectReference):
        return fetch_object(value)
    if type(value) in (list, tuple):
        return type(value)(_given(item) for item in value)
    if type(value) is dict:
        return {key: _given(item) for key, item in value.items()}
    return value


def _carried(channel: AgentChannel, value: bytes) -> dict[str, Any]:
    if len(value) <= INLINE_CALL_BYTES:
        return {"value": value, "value_digest": ""}
    return {"value": None, "value_digest": store_blob(channel, value)}


def _encode_value(value: object, function: Callable[..., Any]) -> bytes:
    try:
        return pickling.dumps(value)
    except Exception as error:  # noqa: BLE001 - Whatever a value's own reducers raise.
        name = getattr(function, "__qualname__", repr(function))
        raise TypeError(f"what task {name}() returned cannot be sent to another process: {error}") from None


def _encode_error(error: BaseException) -> bytes:
    try:
        return pickling.dumps(error.with_traceback(None))
    except Exception:  # noqa: BLE001 - An exception that cannot be pickled arrives as TaskError with its text.
        return pickling.dumps(None)


@functools.cache
def _own_folder() -> str:
    return str(Path(__file__).parent) + os.sep


def _user_traceback(error: BaseException) -> str:
    """Format a traceback without the frames of this module, which say nothing to its reader."""
    frames = traceback.TracebackException.from_exception(error)
    kept = [frame for frame in frames.stack if not frame.filename.startswith(_own_folder())]
    frames.stack = traceback.StackSummary.from_list(kept)
    return "".join(frames.format())[-MAX_ERROR_TEXT:]
