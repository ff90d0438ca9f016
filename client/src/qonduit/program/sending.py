"""Calls of tasks as bytes: small arguments in the call, large ones apart, values of other tasks by reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qonduit.program import pickling
from qonduit.program.blobs import fetch_view, store_blob, store_parts
from qonduit.program.references import Apart, Input, ObjectReference, TaskReference

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from qonduit.program.channel import AgentChannel

MOST_INPUT_BYTES = 256 * 1024
"""Of the values of other tasks that travel with one call."""
MOST_INLINE_BYTES = 32 * 1024
"""Bytes that travel in a message; more are stored, and travel by name."""


def input_rows(channel: AgentChannel, inputs: Sequence[TaskReference]) -> list[list[Any]]:
    """Return the inputs of one call as the agent takes them; values too large together are stored, each by itself."""
    rows = [_input_row(reference) for reference in inputs]
    if sum(len(value or b"") for _, value, _ in rows) <= MOST_INPUT_BYTES:
        return rows
    return [[task_id, None, store_blob(channel, value) if value else digest] for task_id, value, digest in rows]


def _input_row(reference: TaskReference) -> list[Any]:
    """Return an input: with the value if that is known here, else with the task's id."""
    outcome = reference.outcome
    if outcome is None:
        return [reference.task_id, None, ""]
    return ["", outcome.value, outcome.digest]


@dataclass(frozen=True, slots=True)
class Sent:
    """A call as it travels: its bytes or the name of what was stored, and the tasks whose values it is given."""

    call: bytes | None
    digest: str
    inputs: list[TaskReference]
    apart: list[str]
    """Names of the arguments that were stored by themselves; with the task's end one use of each is over."""


def encode_call(channel: AgentChannel, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Sent:
    """Return a call's bytes.

    Raises:
        TypeError: An argument cannot be sent to another process.
    """
    inputs: dict[TaskReference, int] = {}
    apart: list[str] = []
    given_args = tuple([_with_inputs(value, inputs) for value in args])
    given_kwargs = {key: _with_inputs(value, inputs) for key, value in kwargs.items()}
    try:
        parts = pickling.dump_parts((given_args, given_kwargs))
        if size_of(parts) > MOST_INLINE_BYTES:
            given_args = tuple([_apart(channel, value, apart) for value in given_args])
            given_kwargs = {key: _apart(channel, value, apart) for key, value in given_kwargs.items()}
            parts = pickling.dump_parts((given_args, given_kwargs))
    except Exception as error:
        raise TypeError(f"an argument of task {name}() cannot be sent to another process: {error}") from error
    return Sent(*carried(channel, parts), list(inputs), apart)


def carried(channel: AgentChannel, parts: Sequence[bytes | memoryview]) -> tuple[bytes | None, str]:
    """Return an encoded value as it travels: its bytes, or the name under which they were stored."""
    if size_of(parts) > MOST_INLINE_BYTES:
        return None, store_parts(channel, parts)
    return b"".join(parts), ""


def size_of(parts: Sequence[bytes | memoryview]) -> int:
    """Return the bytes of an encoded value."""
    return sum(memoryview(part).nbytes for part in parts)


_ATOMS = (int, float, str, bytes, bool, type(None))


def _with_inputs(value: Any, inputs: dict[TaskReference, int]) -> Any:
    """Replace task references, also in lists, tuples and dicts, by their places among the call's inputs."""
    kind = type(value)
    if kind in _ATOMS:
        return value
    if kind is TaskReference:
        return Input(inputs.setdefault(value, len(inputs)))
    if kind is list:
        return [_with_inputs(item, inputs) for item in value]
    if kind is tuple:
        return tuple([_with_inputs(item, inputs) for item in value])
    if kind is dict:
        return {key: _with_inputs(item, inputs) for key, item in value.items()}
    return value


def _apart(channel: AgentChannel, value: Any, apart: list[str]) -> Any:
    """Store an argument by itself if it is large: the same one in many calls is stored, and crosses, once."""
    if type(value) in {int, float, bool, type(None), Input, ObjectReference}:
        return value
    parts = pickling.dump_parts(value)
    if size_of(parts) <= MOST_INLINE_BYTES:
        return value
    apart.append(store_parts(channel, parts))
    return Apart(apart[-1])


class Receiver:
    """Undoes what `encode_call` did to arguments, where the task runs."""

    def __init__(self, channel: AgentChannel, fetch_object: Callable[[ObjectReference], Any]) -> None:
        self._channel = channel
        self._fetch_object = fetch_object

    def arguments(self, call: bytes | memoryview, inputs: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments of a call, given the values of the tasks among them."""
        args, kwargs = pickling.loads(call)
        return (
            tuple([self._value(value, inputs) for value in args]),
            {key: self._value(value, inputs) for key, value in kwargs.items()},
        )

    def _value(self, value: Any, inputs: Sequence[Any]) -> Any:
        kind = type(value)
        if kind in _ATOMS:
            return value
        if kind in {Input, ObjectReference, Apart}:
            return self._stood_for(value, inputs)
        if kind is list:
            return [self._value(item, inputs) for item in value]
        if kind is tuple:
            return tuple([self._value(item, inputs) for item in value])
        if kind is dict:
            return {key: self._value(item, inputs) for key, item in value.items()}
        return value

    def _stood_for(self, value: Input | ObjectReference | Apart, inputs: Sequence[Any]) -> Any:
        if isinstance(value, Input):
            return inputs[value.index]
        if isinstance(value, ObjectReference):
            return self._fetch_object(value)
        return self._value(pickling.loads(fetch_view(self._channel, value.digest, writable=True)), inputs)
