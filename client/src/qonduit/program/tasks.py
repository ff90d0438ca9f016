"""Parallel tasks in a program: `@distribute_task` makes calls asynchronous, `get` waits for their values."""

from __future__ import annotations

import functools
import hashlib
import os
import threading
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, SupportsFloat, TypeVar, overload

from qonduit.program import pickling
from qonduit.program.blobs import fetch_blob, store_blob
from qonduit.program.channel import GONE, AgentChannel, AgentGoneError, agent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

P = ParamSpec("P")
R = TypeVar("R")

DEFAULT_MEM_BYTES = 1024**3
INLINE_CALL_BYTES = 256 * 1024
"""Calls up to this size go to the agent in one frame; larger ones are stored as a blob first."""
LEND_CPU_AFTER_S = 0.02
"""A driver that waits longer than this in `get` lends its cpu to others; a shorter wait isn't worth a message."""


class TaskError(Exception):
    """A task failed in a way that is not an exception of its function."""


class TaskOutOfMemoryError(TaskError):
    """A task used more memory than its target asked for."""


class TaskLostError(TaskError):
    """A task's executor died again and again."""


class TaskUnschedulableError(TaskError):
    """No worker could ever hold a task's target."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a task needs: cpu in cores (may be fractional), mem in bytes, gpu in whole devices."""

    cpu: float = 1
    mem: int = DEFAULT_MEM_BYTES
    gpu: int = 0

    def __post_init__(self) -> None:
        """Refuse what no machine could give: raises ValueError."""
        if not 0.001 <= self.cpu <= 100_000:  # noqa: PLR2004 - A thousandth of a core is the unit.
            raise ValueError(f"target cpu must be a positive number of cores, not {self.cpu!r}")
        if self.mem < 16 * 1024**2:
            raise ValueError(f"target mem is in bytes and must be at least 16 MiB (16 * 1024**2), not {self.mem!r}")
        if self.gpu < 0:
            raise ValueError(f"target gpu must not be negative, not {self.gpu!r}")


def _as_target(target: Target | Mapping[str, Any] | None) -> Target:
    if target is None:
        return Target()
    if isinstance(target, Target):
        return target
    known = {"cpu", "mem", "gpu", "qpu"}  # The public client stores qpu and never uses it; so do we.
    if unknown := set(target) - known:
        raise ValueError(f"target has no {min(unknown)!r}; its keys are 'cpu' (cores), 'mem' (bytes) and 'gpu'")
    numbers = {"cpu": target.get("cpu", 1), "mem": target.get("mem") or DEFAULT_MEM_BYTES, "gpu": target.get("gpu", 0)}
    for key, value in numbers.items():
        if isinstance(value, str) or not isinstance(value, SupportsFloat):
            raise ValueError(  # noqa: TRY004 - The public client's users expect ValueError of a bad target.
                f"target {key!r} is a number, not {value!r}; cpu is in cores and mem in bytes: 2 GiB is 2 * 1024**3"
            )
    return Target(cpu=float(numbers["cpu"]), mem=int(numbers["mem"]), gpu=int(numbers["gpu"]))


class TaskReference:
    """Stands for the value of a call that runs elsewhere; `get` waits for it.

    `outcome` is None until the agent has told how the task ended.
    """

    __slots__ = ("_name", "outcome", "task_id")

    def __init__(self, task_id: str, name: str) -> None:
        self.task_id = task_id
        self._name = name
        self.outcome: dict[str, Any] | None = None

    def __repr__(self) -> str:
        state = "waiting" if self.outcome is None else self.outcome["outcome"]
        return f"<TaskReference {self._name} {self.task_id[:8]} {state}>"

    def __reduce__(self) -> Any:
        raise TypeError(
            "a task reference cannot be stored or hidden inside another object; "
            "pass it as an argument (also within lists, tuples and dicts), or call get() first"
        )


@dataclass(frozen=True, slots=True)
class ObjectReference:
    """Stands for a value given to `put`: stored once, fetched once by each process that uses it."""

    digest: str
    size_bytes: int


@overload
def distribute_task(target: Callable[P, R], /) -> Callable[P, TaskReference]: ...
@overload
def distribute_task(
    target: Target | Mapping[str, Any] | None = None,
) -> Callable[[Callable[P, R]], Callable[P, TaskReference]]: ...
def distribute_task(target: Any = None) -> Any:
    """Make calls of a function tasks that run side by side on the cluster.

    Args:
        target: what one call needs, `{"cpu": cores, "mem": bytes, "gpu": devices}` or a `Target`; cpu may be
            fractional. Without it: one cpu and 1 GiB.

    Returns:
        A decorator. The decorated function returns a `TaskReference` at once; give it to `get`.

    Raises:
        ValueError: the target has an unknown key or an impossible number.
    """
    if callable(target):
        return _distributed(target, Target())
    wanted = _as_target(target)
    return lambda function: _distributed(function, wanted)


def _distributed(function: Callable[P, R], target: Target) -> Callable[P, TaskReference]:
    encoded: list[bytes] = []  # The function's bytes, made at its first call: by then its globals are there.

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> TaskReference:
        if not encoded:
            encoded.append(pickling.dumps(function))
        return _submit(function, encoded[0], target, args, kwargs)

    return call


def _submit(
    function: Callable[..., Any],
    encoded: bytes,
    target: Target,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> TaskReference:
    name = getattr(function, "__qualname__", repr(function))
    if os.environ.get("QONDUIT_KIND") == "executor":
        raise TaskError(f"{name}() was called in a task, and tasks cannot start tasks: call it in the program itself")
    arguments = _resolved((args, kwargs))
    try:
        call = pickling.dumps((encoded, pickling.dumps(arguments)))
    except Exception as error:
        raise TypeError(f"an argument of task {name}() cannot be sent to another process: {error}") from error
    reference = TaskReference(uuid.uuid4().hex, name)
    request = {
        "task_id": reference.task_id,
        "name": name,
        "cpu_millis": round(target.cpu * 1000),
        "mem_bytes": target.mem,
        "gpus": target.gpu,
        "call": None,
        "call_digest": "",
    }
    if len(call) <= INLINE_CALL_BYTES:
        request["call"] = call
    else:
        request["call_digest"] = store_blob(agent(), call)
    _tasks().submit(reference, request)
    return reference


def _resolved(value: Any) -> Any:
    """Replace task references by their values: a task never starts before what it needs is there."""
    if isinstance(value, TaskReference):
        return get(value)
    if type(value) in (list, tuple):
        return type(value)(_resolved(item) for item in value)
    if type(value) is dict:
        return {key: _resolved(item) for key, item in value.items()}
    return value


def put(value: object) -> ObjectReference:
    """Store a value once, to be given to many tasks; they see the value itself.

    Raises:
        TypeError: the value cannot be sent to another process.
    """
    try:
        data = pickling.dumps(value)
    except Exception as error:
        raise TypeError(f"put() got a value that cannot be sent to another process: {error}") from error
    return ObjectReference(store_blob(agent(), data), len(data))


def get(references: Any, *, timeout: float | None = None) -> Any:
    """Wait for one reference, or a list of them, and return the value or the list of values.

    Args:
        references: a `TaskReference` or an `ObjectReference`, or a list or tuple of these.
        timeout: seconds to wait for all of them; None waits as long as it takes.

    Raises:
        TimeoutError: not all of them were there in time.
        TaskError: a task failed other than by an exception of its own.
        Exception: what a task raised, of the same type, with the remote traceback as a note.
    """
    if isinstance(references, (list, tuple)):
        deadline = None if timeout is None else time.monotonic() + timeout
        _tasks().wait([ref for ref in references if isinstance(ref, TaskReference)], deadline)
        return [_value(reference) for reference in references]
    if isinstance(references, TaskReference):
        _tasks().wait([references], None if timeout is None else time.monotonic() + timeout)
    return _value(references)


def get_refs_by_status(
    references: Sequence[TaskReference], *, num_returns: int = 1, timeout: float | None = None, **_: object
) -> tuple[list[TaskReference], list[TaskReference]]:
    """Wait until `num_returns` of the references are done and return (done, pending)."""
    deadline = None if timeout is None else time.monotonic() + timeout
    _tasks().wait(references, deadline, enough=min(num_returns, len(references)), expire=False)
    done: list[TaskReference] = []
    pending: list[TaskReference] = []
    for reference in references:  # Looked at once each: more of them may be done a moment later.
        (pending if reference.outcome is None else done).append(reference)
    return done, pending


def _value(reference: Any) -> Any:
    if isinstance(reference, ObjectReference):
        return fetch_object(reference)
    if not isinstance(reference, TaskReference):
        kind = type(reference).__name__
        raise TypeError(f"get() takes references made by distribute_task or put, not {kind}")
    outcome = reference.outcome
    if outcome is None:
        raise TaskError(f"{reference!r} has no value yet")
    kind, text = outcome["outcome"], outcome.get("text", "")
    if kind == "OK":
        return pickling.loads(_bytes_of(outcome))
    if kind == "ERROR":
        raise _remote_exception(_bytes_of(outcome), text)
    raise {
        "OUT_OF_MEMORY": TaskOutOfMemoryError,
        "EXECUTOR_DIED": TaskLostError,
        "UNSCHEDULABLE": TaskUnschedulableError,
    }.get(kind, TaskError)(text or kind)


def _bytes_of(outcome: Mapping[str, Any]) -> bytes:
    if outcome.get("value") is not None:
        return bytes(outcome["value"])
    return fetch_blob(agent(), outcome["value_digest"])


def _remote_exception(data: bytes, text: str) -> BaseException:
    try:
        error = pickling.loads(data)
    except Exception:  # noqa: BLE001 - The type may not exist here; the text tells what happened.
        return TaskError(text)
    if not isinstance(error, Exception):  # SystemExit and the like would end the program that asks for the value.
        return TaskError(text)
    error.add_note(f"Raised in a task. Its traceback there:\n{text}")
    return error


@functools.lru_cache(maxsize=32)
def _object(digest: str) -> Any:
    return pickling.loads(fetch_blob(agent(), digest))


def fetch_object(reference: ObjectReference) -> Any:
    """Return the value behind `put`, fetched once a process."""
    return _object(reference.digest)


class _Tasks:
    """This process's unfinished tasks: the agent's pushes complete them, waiting threads are told."""

    def __init__(self, channel: AgentChannel) -> None:
        self._channel = channel
        self._changed = threading.Condition()
        self._pending: dict[str, TaskReference] = {}
        self._waiters = 0
        self._telling = threading.Lock()
        self._gone = False
        channel.on_push("task_done", self._on_done)
        channel.on_push(GONE, self._on_gone)

    def submit(self, reference: TaskReference, request: dict[str, Any]) -> None:
        with self._changed:
            self._pending[reference.task_id] = reference
        try:
            self._channel.call("tasks_submit", tasks=[request])
        except BaseException:
            with self._changed:
                self._pending.pop(reference.task_id, None)
            raise

    def _on_gone(self, _: Mapping[str, Any]) -> None:
        with self._changed:
            self._gone = True
            self._changed.notify_all()

    def _on_done(self, fields: Mapping[str, Any]) -> None:
        with self._changed:
            reference = self._pending.pop(str(fields["task_id"]), None)
            if reference is not None:  # A repeated push finds nothing: each task completes once.
                reference.outcome = dict(fields)
                self._changed.notify_all()

    def wait(
        self,
        references: Iterable[TaskReference],
        deadline: float | None,
        *,
        enough: int | None = None,
        expire: bool = True,
    ) -> None:
        """Wait until all (or `enough`) have an outcome; TimeoutError past the deadline if `expire`."""
        waited_for = list(references)
        missing = waited_for[::-1]
        spared = 0 if enough is None else len(waited_for) - enough

        def arrived() -> bool:
            # Of all of them only the next one is looked at each time: thousands come one by one.
            while missing and missing[-1].outcome is not None:
                missing.pop()
            return len(missing) <= spared or (
                spared > 0 and sum(reference.outcome is None for reference in missing) <= spared
            )

        with self._changed:
            if self._changed.wait_for(arrived, _patience(deadline, LEND_CPU_AFTER_S)):
                return
        self._lend_cpu(lending=True)
        try:
            with self._changed:
                done = self._changed.wait_for(lambda: arrived() or self._gone, _patience(deadline)) and arrived()
        finally:
            if not self._gone:
                self._lend_cpu(lending=False)
        if self._gone and not done:
            raise AgentGoneError("the agent closed the channel: the values of tasks can no longer arrive")
        if not done and expire:
            late = sum(reference.outcome is None for reference in waited_for)
            raise TimeoutError(f"{late} of {len(waited_for)} tasks had no value in time; they run on")

    def _lend_cpu(self, *, lending: bool) -> None:
        """Tell the agent when the first thread starts to wait, and when the last one goes on."""
        with self._telling:  # Held until the agent knows: what two threads tell must arrive in the order it happened.
            before = self._waiters
            self._waiters += 1 if lending else -1
            if (before == 0) if lending else (self._waiters == 0):
                self._channel.call("tasks_waiting", waiting=lending)


def _patience(deadline: float | None, most: float | None = None) -> float | None:
    if deadline is None:
        return most
    left = max(0.0, deadline - time.monotonic())
    return left if most is None else min(left, most)


@functools.cache
def _tasks() -> _Tasks:
    return _Tasks(agent())


# A forked child has a connection of its own, on which the parent's tasks don't arrive; its locks may be held for ever.
os.register_at_fork(after_in_child=_tasks.cache_clear)


def function_digest(encoded: bytes) -> str:
    """Name an encoded function, for the executor's cache of functions."""
    return hashlib.sha256(encoded).hexdigest()
