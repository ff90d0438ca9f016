"""The truth about one job attempt's tasks: pure, events in, decisions out.

The queue may lose, repeat or reorder everything: a task stays here until its value is committed, once.

    QUEUED --taken--> TAKEN --reply--> gone (its end was told)
       ^________lost/returned__|
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qonduit_service_kit.messages import Shape, Stage, TaskCall, TaskOutcome, TaskReply

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_LOSSES = 3
"""A task whose executor died this often fails, instead of going round for ever."""


@dataclass(frozen=True, slots=True)
class Task:
    """One unfinished task. `lease_id` is empty while it is queued."""

    call: TaskCall
    shape: Shape
    lease_id: str = ""
    losses: int = 0

    @property
    def task_id(self) -> str:
        """Its id."""
        return self.call.task_id


@dataclass(frozen=True, slots=True)
class Finished:
    """Tell the program: this task ended, for good."""

    task: Task
    outcome: str
    value: bytes | None = None
    value_digest: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class SendAgain:
    """Publish this task again; its attempt has been raised."""

    task: Task


Decision = Finished | SendAgain


class TaskLedger:
    """Every unfinished task of one attempt of a job."""

    def __init__(self) -> None:
        self._tasks: dict[str, Task] = {}
        self._unfinished: dict[Shape, int] = {}
        self._owned: dict[Shape, Counter[str]] = {}
        """How many tasks of a shape each lease owns."""
        self._lost: set[str] = set()
        self.inline_bytes = 0
        """Bytes of all calls that are kept here and not in storage."""

    def __len__(self) -> int:
        return len(self._tasks)

    def add(self, call: TaskCall, shape: Shape) -> None:
        """Note a new task. The same id again changes nothing: the program's call was repeated."""
        if call.task_id in self._tasks:
            return
        self._tasks[call.task_id] = Task(call, shape)
        self._unfinished[shape] = self._unfinished.get(shape, 0) + 1
        self.inline_bytes += len(call.call or b"")

    def unfinished(self, shape: Shape) -> int:
        """Count the tasks of a shape that have not ended."""
        return self._unfinished.get(shape, 0)

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Every shape seen so far."""
        return tuple(self._unfinished)

    def queued(self) -> tuple[Task, ...]:
        """Return the tasks no lease owns: to be published again when the queue may have lost them."""
        return tuple(task for task in self._tasks.values() if not task.lease_id)

    def owners(self, shape: Shape) -> frozenset[str]:
        """Return the leases that own tasks of a shape."""
        return frozenset(self._owned.get(shape, ()))

    def taken(self, lease_id: str, tasks: Iterable[tuple[str, int]]) -> list[Decision]:
        """Note that a lease owns tasks; an older attempt, or an ended task, is ignored.

        A lease that was lost before its word came, and may have acknowledged them, loses them at once.
        """
        taken: list[Decision] = []
        for task_id, attempt in tasks:
            task = self._tasks.get(task_id)
            if task is None or task.call.attempt != attempt:
                continue
            if lease_id in self._lost:
                taken.append(self._again(task, "its executor was lost", died=False))
            else:
                self._set(replace(task, lease_id=lease_id))
        return taken

    def _set(self, task: Task) -> None:
        """Replace a task by its next state."""
        self._disown(self._tasks[task.task_id])
        self._tasks[task.task_id] = task
        if task.lease_id:
            self._owned.setdefault(task.shape, Counter())[task.lease_id] += 1

    def _disown(self, task: Task) -> None:
        if task.lease_id:
            owned = self._owned[task.shape]
            owned[task.lease_id] -= 1
            if not owned[task.lease_id]:
                del owned[task.lease_id]

    def reply(self, lease_id: str, reply: TaskReply) -> Decision | None:
        """Apply the end of one attempt. A value counts from any attempt, a loss only from the newest."""
        task = self._tasks.get(reply.task_id)
        if task is None:  # Committed before: the reply came twice, or two attempts ran.
            return None
        if reply.outcome in {TaskOutcome.OK, TaskOutcome.ERROR, TaskOutcome.OUT_OF_MEMORY}:
            return self._finish(task, reply.outcome, reply)
        if task.call.attempt != reply.attempt or task.lease_id not in {"", lease_id}:
            return None
        return self._again(task, reply.text, died=reply.outcome is TaskOutcome.EXECUTOR_DIED)

    def lost(self, lease_id: str, cause: str) -> list[Decision]:
        """Take back what a lease owned: its executor, or its whole worker, is gone."""
        self._lost.add(lease_id)
        owned = [task for task in self._tasks.values() if task.lease_id == lease_id]
        return [self._again(task, cause, died=True) for task in owned]

    def refuse(self, shape: Shape, text: str) -> list[Finished]:
        """End every task of a shape that no worker could ever run."""
        refused = [task for task in self._tasks.values() if task.shape == shape]
        return [self._finish(task, "UNSCHEDULABLE", text=text) for task in refused]

    def _again(self, task: Task, cause: str, *, died: bool) -> Decision:
        losses = task.losses + died
        if losses > MAX_LOSSES:
            text = f"task {task.call.name} lost its executor {losses} times; the last time: {cause}"
            return self._finish(task, TaskOutcome.EXECUTOR_DIED, text=text)
        again = Task(replace(task.call, attempt=task.call.attempt + 1), task.shape, losses=losses)
        self._set(again)
        return SendAgain(again)

    def _finish(self, task: Task, outcome: str, reply: TaskReply | None = None, text: str = "") -> Finished:
        self._disown(task)
        del self._tasks[task.task_id]
        self._unfinished[task.shape] -= 1
        self.inline_bytes -= len(task.call.call or b"")
        if reply is None:
            return Finished(task, outcome, text=text)
        return Finished(task, outcome, reply.value, reply.value_digest, reply.text)


def stage_of(decision: Finished) -> Stage:
    """Return the stage whose account a finished task's cpu time goes to: the one it was submitted in."""
    return decision.task.call.stage
