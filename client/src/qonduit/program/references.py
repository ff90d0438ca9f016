"""What stands for a value that is elsewhere, or not there yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Generator


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a task ended, and its value's bytes or the name of what was stored."""

    kind: str
    value: bytes | None = None
    digest: str = ""
    text: str = ""


class TaskReference:
    """Stands for the value of a call that runs elsewhere; `get` waits for it, and so does `await`.

    `outcome` is None until the agent has told how the task ended.
    """

    __slots__ = ("__weakref__", "_name", "outcome", "task_id", "unsent")

    def __init__(self, task_id: str, name: str) -> None:
        self.task_id = task_id
        self._name = name
        self.outcome: Outcome | None = None
        self.unsent: tuple[str, Any] | None = None
        """The call as it was submitted, as long as it may have to be submitted again."""

    def __repr__(self) -> str:
        state = "waiting" if self.outcome is None else self.outcome.kind
        return f"<TaskReference {self._name} {self.task_id} {state}>"

    def __await__(self) -> Generator[Any, None, Any]:
        from qonduit.program.awaiting import wait_for  # noqa: PLC0415 - It knows this module.

        return wait_for(self)

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


@dataclass(frozen=True, slots=True)
class Input:
    """Stands for the value of another task among the arguments of a call, by its place in the call's inputs."""

    index: int


@dataclass(frozen=True, slots=True)
class Apart:
    """Stands for an argument that is too large to travel with its call; each task gets a value of its own."""

    digest: str
