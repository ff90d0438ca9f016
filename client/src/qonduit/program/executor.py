"""An executor: a process that runs one task after another until its agent ends it."""

from __future__ import annotations

import functools
import os
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from qonduit.program import pickling
from qonduit.program.blobs import fetch_blob, fetch_view, waited_s
from qonduit.program.channel import AgentChannel, agent
from qonduit.program.left_files import LeftFiles
from qonduit.program.marking import Marker
from qonduit.program.sending import Receiver, carried
from qonduit.program.task_errors import TaskCanceledError
from qonduit.program.tasks import fetch_object
from qonduit.program.work import Given, Work

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_ERROR_TEXT = 16_000
"""Characters of a task's traceback; its end tells most."""


def run_executor() -> None:
    """Take tasks from the agent and send back what they give; called in the sandbox, returns when told to end."""
    channel = agent()
    work = Work(channel)
    marker = Marker()
    left_files = LeftFiles(channel)
    channel.call("executor_ready")
    while (task := work.next()) is not None:
        marker.begin(task.number, work.functions[task.function_id].name)
        before = _clocks()
        ended = _run(channel, work, task)
        spent = [after - begun for begun, after in zip(before, _clocks(), strict=True)]
        left_files.name_new_ones()
        row = [task.task_id, task.attempt, *ended, *spent]
        channel.notify("task_result", result=row)


def _clocks() -> tuple[float, float, float]:
    """Return what the agent is told the differences of: time, CPU time, and the wait for large values."""
    return time.perf_counter(), time.process_time(), waited_s()


class Ended(NamedTuple):
    """How a task ended, as the agent takes it."""

    outcome: str
    value: bytes | None = None
    digest: str = ""
    text: str = ""


def _run(channel: AgentChannel, work: Work, task: Given) -> Ended:
    name = work.functions[task.function_id].name
    try:
        with work.running(task):
            function = _function(channel, work, task.function_id)
            args, kwargs = _arguments(channel, task)
            value = _encode_value(function(*args, **kwargs), name)
        return Ended("OK", *carried(channel, value))
    except BaseException as error:  # noqa: BLE001 - Whatever a task raises, SystemExit too, is the task's value.
        if isinstance(error, TaskCanceledError) and work.is_canceled(task):
            return Ended("CANCELED", text=f"task {name} was canceled")
        text = _user_traceback(error)  # Read first: the exception travels without its traceback.
        return Ended("ERROR", *carried(channel, _encode_error(error)), text=text)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


_decoded: dict[str, Callable[..., Any]] = {}


def _function(channel: AgentChannel, work: Work, function_id: str) -> Callable[..., Any]:
    """Decode a function once a process: what it keeps in its globals stays warm from task to task."""
    function = _decoded.get(function_id)
    if function is None:
        code = work.functions[function_id]
        data = code.code if code.code is not None else fetch_blob(channel, code.code_digest)
        function = _decoded[function_id] = pickling.loads(data)
    return function


def _arguments(channel: AgentChannel, task: Given) -> tuple[tuple[Any, ...], dict[str, Any]]:
    call = task.call if task.call is not None else fetch_view(channel, task.call_digest, writable=True)
    inputs = [
        pickling.loads(value if value is not None else fetch_view(channel, digest, writable=True))
        for value, digest in task.inputs
    ]
    return Receiver(channel, fetch_object).arguments(call, inputs)


def _encode_value(value: object, name: str) -> list[bytes | memoryview]:
    try:
        return pickling.dump_parts(value)
    except Exception as error:  # noqa: BLE001 - Whatever a value's own reducers raise.
        raise TypeError(f"what task {name}() returned cannot be sent to another process: {error}") from None


def _encode_error(error: BaseException) -> list[bytes | memoryview]:
    try:
        return pickling.dump_parts(error.with_traceback(None))
    except Exception:  # noqa: BLE001 - An exception that cannot be pickled arrives as TaskError with its text.
        return pickling.dump_parts(None)


@functools.cache
def _own_folder() -> str:
    return str(Path(__file__).parent) + os.sep


def _user_traceback(error: BaseException) -> str:
    """Format a traceback without the frames of this module, which say nothing to its reader."""
    frames = traceback.TracebackException.from_exception(error)
    kept = [frame for frame in frames.stack if not frame.filename.startswith(_own_folder())]
    frames.stack = traceback.StackSummary.from_list(kept)
    return "".join(frames.format())[-MAX_ERROR_TEXT:]
