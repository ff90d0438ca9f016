"""Parallel tasks in a program: `@distribute_task` makes calls asynchronous, `get` waits for their values."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import math
import os
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, overload

from qonduit.program import pickling
from qonduit.program.blobs import fetch_view, store_blob, store_parts
from qonduit.program.channel import agent
from qonduit.program.references import ObjectReference, TaskReference
from qonduit.program.sending import MOST_INLINE_BYTES, encode_call, size_of
from qonduit.program.targets import Target, as_target
from qonduit.program.task_client import task_client
from qonduit.program.task_errors import (
    BY_OUTCOME,
    TaskCanceledError,
    TaskError,
    TaskLostError,
    TaskOutOfMemoryError,
    TaskTimeoutError,
    TaskUnschedulableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from qonduit.program.references import Outcome

__all__ = [
    "DistributedFunction",
    "ObjectReference",
    "Target",
    "TaskCanceledError",
    "TaskError",
    "TaskLostError",
    "TaskOutOfMemoryError",
    "TaskReference",
    "TaskTimeoutError",
    "TaskUnschedulableError",
    "cancel",
    "distribute_task",
    "get",
    "get_refs_by_status",
    "put",
    "wait",
]

P = ParamSpec("P")
R = TypeVar("R")

MAX_RETRIES = 3
_CALLS_IN_A_FRAME = 256
_MOST_RETRIES = 1_000_000


# --- Functions ---------------------------------------------------------------------------------


@overload
def distribute_task(target: Callable[P, R], /) -> DistributedFunction[P]: ...
@overload
def distribute_task(
    target: Target | Mapping[str, Any] | None = None,
    *,
    max_retries: int = MAX_RETRIES,
    timeout: float | None = None,
    name: str | None = None,
) -> Callable[[Callable[P, R]], DistributedFunction[P]]: ...
def distribute_task(
    target: Any = None, *, max_retries: int = MAX_RETRIES, timeout: float | None = None, name: str | None = None
) -> Any:
    """Make calls of a function tasks that run side by side on the cluster.

    Args:
        target: what one call needs, `{"cpu": cores, "mem": bytes, "gpu": devices}` or a `Target`; cpu may be
            fractional. Without it: one cpu and 1 GiB.
        max_retries: how often a call that lost its executor (it was killed, its machine went away) is run again.
            What the function itself raises is not tried again.
        timeout: seconds that one call may run; one that runs longer is ended, and `get` raises TaskTimeoutError.
        name: what the tasks are called in logs and lists; the function's own name without it.

    Returns:
        A decorator. The decorated function returns a `TaskReference` at once; give it to `get`.

    Raises:
        ValueError: the target has an unknown key, or a number is impossible.
    """
    if isinstance(max_retries, bool) or not isinstance(max_retries, int) or not 0 <= max_retries <= _MOST_RETRIES:
        raise ValueError(f"max_retries is a whole number from 0 to {_MOST_RETRIES}, not {max_retries!r}")
    if timeout is not None and not (isinstance(timeout, (int, float)) and 0 < timeout < math.inf):
        raise ValueError(f"timeout is a positive number of seconds or None, not {timeout!r}")
    wanted = Target() if callable(target) else as_target(target)
    if callable(target):
        return DistributedFunction(target, wanted, max_retries=max_retries, timeout_s=timeout or 0.0, name=name or "")
    return lambda function: DistributedFunction(
        function, wanted, max_retries=max_retries, timeout_s=timeout or 0.0, name=name or ""
    )


class DistributedFunction(Generic[P]):
    """A function whose calls are tasks. Call it for one task, `map` it for many."""

    def __init__(
        self,
        function: Callable[P, Any],
        target: Target,
        *,
        max_retries: int = MAX_RETRIES,
        timeout_s: float = 0.0,
        name: str = "",
    ) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._target = target
        self._max_retries = max_retries
        self._timeout_s = timeout_s
        self._name = name or getattr(function, "__qualname__", repr(function))
        self._code = b""  # Made at the first call: by then the globals that it uses are there.
        self._function_id = ""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> TaskReference:
        """Run a call elsewhere; returns at once.

        Raises:
            TypeError: an argument cannot be sent to another process.
        """
        (reference,) = self._submit([(args, kwargs)])
        return reference

    def map(self, *iterables: Iterable[Any], **kwargs: Any) -> list[TaskReference]:
        """Start a task for each set of arguments, as the built-in `map` takes them; quicker than as many calls.

        Args:
            iterables: one for each positional argument; the shortest ends.
            kwargs: the same for all tasks.

        Raises:
            TypeError: an argument cannot be sent to another process.
        """
        return self._submit((args, kwargs) for args in zip(*iterables, strict=False))

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        """Bind as a method does, so that a method can be distributed, too."""
        return self if instance is None else functools.partial(self, instance)  # type: ignore[arg-type]

    def __reduce__(self) -> Any:
        """Travel into tasks, which may call it, too."""
        return _again, (self._function, self._target, self._max_retries, self._timeout_s, self._name)

    def _submit(self, calls: Iterable[tuple[tuple[Any, ...], dict[str, Any]]]) -> list[TaskReference]:
        client, channel = task_client(), agent()
        if not self._function_id:
            self._encode()
        client.define(self._function_id, self._definition)
        references: list[TaskReference] = []
        calls = iter(calls)
        while several := list(itertools.islice(calls, _CALLS_IN_A_FRAME)):
            submitted = []
            for args, kwargs in several:
                reference = TaskReference(client.new_id(), self._name)
                submitted.append((reference, encode_call(channel, self._name, args, kwargs)))
                references.append(reference)
            client.submit(self._function_id, submitted)
        return references

    def _encode(self) -> None:
        self._code = pickling.dumps(self._function)
        digest = hashlib.sha256(self._code)
        digest.update(repr((self._target, self._max_retries, self._timeout_s, self._name)).encode())
        self._function_id = digest.hexdigest()

    def _definition(self) -> dict[str, Any]:
        inline = len(self._code) <= MOST_INLINE_BYTES
        return {
            "name": self._name,
            "cpu_millis": max(1, round(self._target.cpu * 1000)),
            "mem_bytes": self._target.mem,
            "gpus": self._target.gpu,
            "max_retries": self._max_retries,
            "timeout_s": self._timeout_s,
            "code": self._code if inline else None,
            "code_digest": "" if inline else store_blob(agent(), self._code),
        }


def _again(
    function: Callable[..., Any], target: Target, max_retries: int, timeout_s: float, name: str
) -> DistributedFunction[...]:
    return DistributedFunction(function, target, max_retries=max_retries, timeout_s=timeout_s, name=name)


# --- Values ------------------------------------------------------------------------------------


def put(value: object) -> ObjectReference:
    """Store a value once, to be given to many tasks; they see the value itself.

    It crosses to each machine once and is decoded once in each process that uses it. So tasks must not change it:
    arrays in it are read-only; a task that wants to write makes a copy.

    Raises:
        TypeError: the value cannot be sent to another process.
    """
    try:
        parts = pickling.dump_parts(value)
    except Exception as error:
        raise TypeError(f"put() got a value that cannot be sent to another process: {error}") from error
    return ObjectReference(store_parts(agent(), parts), size_of(parts))


def get(references: Any, *, timeout: float | None = None) -> Any:
    """Wait for one reference, or all in a list, tuple or dict (also nested), and return the values in that form.

    A tuple gives a list.

    Args:
        references: a `TaskReference` or an `ObjectReference`, or containers of these.
        timeout: seconds to wait for all of them; None waits as long as it takes.

    Raises:
        TimeoutError: not all of them were there in time.
        TaskError: a task failed other than by an exception of its own.
        Exception: what a task raised, of the same type, with the remote traceback as a note.
    """
    awaited: list[TaskReference] = []
    _collect(references, awaited)
    early: dict[TaskReference, Any] = {}

    def decode(reference: TaskReference) -> None:
        """Decode a value while others are still on their way; what fails here fails again when it is its turn."""
        if reference.outcome is not None and reference.outcome.kind == "OK":
            with contextlib.suppress(Exception):
                early[reference] = value_of(reference)

    if awaited:
        deadline = None if timeout is None else time.monotonic() + timeout
        task_client().wait(awaited, deadline, look_at=decode)
    return _values(references, early)


def _collect(references: Any, awaited: list[TaskReference]) -> None:
    if isinstance(references, TaskReference):
        awaited.append(references)
    elif isinstance(references, (list, tuple)):
        for reference in references:
            _collect(reference, awaited)
    elif isinstance(references, dict):
        for reference in references.values():
            _collect(reference, awaited)


def _values(references: Any, early: dict[TaskReference, Any]) -> Any:
    if isinstance(references, (list, tuple)):
        return [_values(reference, early) for reference in references]
    if isinstance(references, dict):
        return {key: _values(reference, early) for key, reference in references.items()}
    if isinstance(references, TaskReference) and references in early:
        return early.pop(references)  # Named twice it is decoded twice: each place has a value of its own.
    return value_of(references)


def wait(
    references: Sequence[TaskReference], *, num_returns: int = 1, timeout: float | None = None
) -> tuple[list[TaskReference], list[TaskReference]]:
    """Wait until `num_returns` of the references are done, or for `timeout` seconds, and return (done, pending).

    A task is done also when it failed: `get` of it raises.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    task_client().wait(references, deadline, enough=min(num_returns, len(references)), expire=False)
    done: list[TaskReference] = []
    pending: list[TaskReference] = []
    for reference in references:  # Looked at once each: more of them may be done a moment later.
        (pending if reference.outcome is None else done).append(reference)
    return done, pending


def get_refs_by_status(
    references: Sequence[TaskReference], *, num_returns: int = 1, timeout: float | None = None, **_: object
) -> tuple[list[TaskReference], list[TaskReference]]:
    """Do as `wait` does: the name that the public client has for it."""
    return wait(references, num_returns=num_returns, timeout=timeout)


def cancel(references: TaskReference | Iterable[TaskReference]) -> None:
    """End tasks whose values nobody wants any more; `get` of them raises TaskCanceledError.

    One that waits never starts, or is interrupted as it begins if it was on its way; one that runs is interrupted by a
    TaskCanceledError, and killed when it doesn't end soon. Those that have ended stay as they are.
    """
    several = [references] if isinstance(references, TaskReference) else list(references)
    for reference in several:
        if not isinstance(reference, TaskReference):
            raise TypeError(f"cancel() takes references made by distribute_task, not {type(reference).__name__}")
    task_client().cancel(several)


def value_of(reference: Any) -> Any:
    """Return the value of a reference that is there; raises what its task raised."""
    if isinstance(reference, ObjectReference):
        return fetch_object(reference)
    if not isinstance(reference, TaskReference):
        if os.environ.get("QONDUIT_KIND") == "executor":
            return reference  # References among a task's arguments were replaced by their values before it began.
        kind = type(reference).__name__
        raise TypeError(f"get() takes references made by distribute_task or put, not {kind}")
    outcome = reference.outcome
    if outcome is None:
        raise TaskError(f"{reference!r} has no value yet")
    if outcome.kind == "OK":
        return pickling.loads(_bytes_of(outcome))
    if outcome.kind == "ERROR":
        raise _remote_exception(_bytes_of(outcome), outcome.text)
    raise BY_OUTCOME.get(outcome.kind, TaskError)(outcome.text or outcome.kind)


def _bytes_of(outcome: Outcome) -> bytes | memoryview:
    return outcome.value if outcome.value is not None else fetch_view(agent(), outcome.digest, writable=True)


def _remote_exception(data: bytes | memoryview, text: str) -> BaseException:
    try:
        error = pickling.loads(data)
    except Exception:  # noqa: BLE001 - The type may not exist here; the text tells what happened.
        return TaskError(text)
    if not isinstance(error, Exception):  # SystemExit and the like would end the program that asks for the value.
        return TaskError(text)
    error.add_note(f"Raised in a task. Its traceback there:\n{text}")
    return error


_objects: OrderedDict[str, tuple[Any, int]] = OrderedDict()
_MOST_OBJECTS = 32
_MOST_OBJECT_BYTES = 256 * 1024**2


def fetch_object(reference: ObjectReference) -> Any:
    """Return the value behind `put`, fetched once a process; of many, or large ones, only the newest are kept."""
    kept = _objects.get(reference.digest)
    if kept is not None:
        _objects.move_to_end(reference.digest)
        return kept[0]
    value = pickling.loads(fetch_view(agent(), reference.digest), writable=False)
    _objects[reference.digest] = (value, reference.size_bytes)
    while len(_objects) > 1 and (
        len(_objects) > _MOST_OBJECTS or sum(size for _, size in _objects.values()) > _MOST_OBJECT_BYTES
    ):
        _objects.popitem(last=False)
    return value
