"""The truth about one job attempt's tasks: pure, events in, decisions out, time as a parameter.

The queue may lose, repeat or reorder everything: a task stays here until its value is committed, once.

    WAITING --inputs--> QUEUED (ready here, then in a batch) --taken--> RUNNING --reply--> gone (its end was told)
                           ^_______________lost/returned_______________|
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from qonduit_service_kit.messages import TaskInput, TaskOutcome, TaskReply, TaskResult, TaskState

from qonduit_worker.tasks.batching import RunTimes, batch_size, put_in_order
from qonduit_worker.tasks.task import Batch, Decision, Finished, Interrupt, Task, Unknown

if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Set as AbstractSet

    from qonduit_service_kit.messages import Shape

LEAST_WINDOW = 8
"""Batches of a shape that lie in the queue at least; more tasks wait here, where batches can still grow."""
BATCHES_AN_EXECUTOR = 2
_FINAL = frozenset(
    {TaskOutcome.OK, TaskOutcome.ERROR, TaskOutcome.OUT_OF_MEMORY, TaskOutcome.TIMEOUT, TaskOutcome.CANCELED}
)
_DEATHS = frozenset({TaskOutcome.OUT_OF_MEMORY, TaskOutcome.TIMEOUT, TaskOutcome.EXECUTOR_DIED})


@dataclass(slots=True)
class _Lane:
    """The tasks of one shape."""

    ready: OrderedDict[str, Task] = field(default_factory=OrderedDict)
    """Not in the queue yet, in their order."""
    in_order: int = 0
    """How many in front of these were put in the order in which they should run."""
    batches: dict[int, Batch] = field(default_factory=dict)
    """In the queue, as far as is known."""
    owned: Counter[str] = field(default_factory=Counter)
    """How many tasks each lease owns."""
    unfinished: int = 0
    """Not counting tasks that wait for inputs: no executor could run them."""


class TaskLedger:
    """Every unfinished task of one attempt of a job."""

    def __init__(self) -> None:
        self.times = RunTimes()
        self._tasks: dict[str, Task] = {}
        self._lanes: dict[Shape, _Lane] = {}
        self._waiters: dict[str, list[Task]] = {}
        """Who waits for the value of a task."""
        self._lost: set[str] = set()
        self._children: dict[str, dict[str, Task]] = {}
        """Unfinished tasks by the task that submitted them."""
        self._numbers = 0
        self._takings = 0
        self._batches = 0
        self.inline_bytes = 0
        """Bytes of all calls and inputs that are kept here."""

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Every shape seen so far."""
        return tuple(self._lanes)

    def unfinished(self, shape: Shape) -> int:
        """Count the tasks of a shape that an executor could run or runs."""
        lane = self._lanes.get(shape)
        return lane.unfinished if lane is not None else 0

    def owners(self, shape: Shape) -> frozenset[str]:
        """Return the leases that own tasks of a shape."""
        lane = self._lanes.get(shape)
        return frozenset(lane.owned) if lane is not None else frozenset()

    def unfinished_task(self, task_id: str) -> Task | None:
        """Return a task that has not ended, or None."""
        return self._tasks.get(task_id)

    def unfinished_ids(self) -> tuple[str, ...]:
        """Return the ids of all tasks that have not ended."""
        return tuple(self._tasks)

    @property
    def parents(self) -> int:
        """How many tasks have unfinished tasks of their own."""
        return len(self._children)

    def is_lost(self, lease_id: str) -> bool:
        """Tell whether a lease is known to be over: what comes from it now is late."""
        return lease_id in self._lost

    def foremost(self, shape: Shape) -> Task | None:
        """Return a task that stands for those of a shape which wait, or None."""
        lane = self._lanes.get(shape)
        if lane is None:
            return None
        if lane.ready:
            return next(iter(lane.ready.values()))
        return next((batch.tasks[0] for batch in lane.batches.values()), None)

    # --- Coming in -----------------------------------------------------------------------------

    def add(self, task: Task, now: float) -> Decision | None:
        """Take a new task. The same id again changes nothing: it was submitted twice."""
        if task.task_id in self._tasks:
            return None
        awaited = {given.task_id for given in task.inputs if given.task_id}
        if any(task_id not in self._tasks for task_id in awaited):
            return Unknown(task.task_id, task.owner)
        task.number = self._numbers
        self._numbers += 1
        task.queued_at = now
        self._tasks[task.task_id] = task
        self.inline_bytes += task.size_bytes
        if task.owner is not None:
            self._children.setdefault(task.owner.parent_id, {})[task.task_id] = task
        task.missing = len(awaited)
        if not task.missing:
            self._make_ready(task)
            return None
        task.state = TaskState.WAITING
        for task_id in awaited:
            self._waiters.setdefault(task_id, []).append(task)
        return None

    def _make_ready(self, task: Task) -> None:
        lane = self._lanes.setdefault(task.shape, _Lane())
        lane.unfinished += 1
        # What a task waits for goes before what has not begun: else those that wait could fill the job's limit.
        self._wait_in(lane, task, first=task.owner is not None)

    @staticmethod
    def _wait_in(lane: _Lane, task: Task, *, first: bool) -> None:
        task.state = TaskState.QUEUED
        lane.ready[task.task_id] = task
        if first:
            lane.ready.move_to_end(task.task_id, last=False)
            lane.in_order += 1

    # --- To the queue --------------------------------------------------------------------------

    def next_batches(self, shape: Shape) -> list[Batch]:
        """Return the batches that should go to the queue now; they count as being there."""
        lane = self._lanes.get(shape)
        if lane is None or not lane.ready:
            return []
        made: list[Batch] = []
        executors = len(lane.owned)
        window = max(LEAST_WINDOW, BATCHES_AN_EXECUTOR * executors)
        while lane.ready and len(lane.batches) < window:
            lane.in_order = min(lane.in_order, len(lane.ready)) or put_in_order(lane.ready, self.times)
            count, expected_s = batch_size(lane.ready.values(), self.times, executors)
            lane.in_order = max(0, lane.in_order - count)
            self._batches += 1
            batch = Batch(self._batches, [lane.ready.popitem(last=False)[1] for _ in range(count)], expected_s)
            for task in batch.tasks:
                task.batch = batch.number
            lane.batches[batch.number] = batch
            made.append(batch)
        return made

    def in_queue(self, shape: Shape) -> list[Batch]:
        """Return what of the batches in the queue was not taken: to be published again when they may be lost."""
        lane = self._lanes.get(shape)
        if lane is None:
            return []
        for batch in lane.batches.values():
            batch.tasks = [task for task in batch.tasks if task.batch == batch.number]
        return list(lane.batches.values())

    def is_foremost(self, shape: Shape, batch: Batch) -> bool:
        """Tell whether a batch waits behind none of its shape that went to the queue before it."""
        lane = self._lanes.get(shape)
        return lane is not None and next(iter(lane.batches), 0) == batch.number

    def _leave_queue(self, task: Task, lane: _Lane) -> None:
        if not task.batch:
            return
        batch = lane.batches.get(task.batch)
        task.batch = 0
        if batch is not None:
            batch.untaken -= 1
            if not batch.untaken:
                del lane.batches[batch.number]

    # --- With executors ------------------------------------------------------------------------

    def taken(self, lease_id: str, worker_id: str, tasks: Iterable[tuple[str, int]], now: float) -> list[Decision]:
        """Note that a lease owns tasks; an older attempt is ignored.

        A lease that was lost before its word came, and may have acknowledged them, loses them at once. Of what has
        ended meanwhile (it was canceled in the queue, or came twice) the executor is told that nobody wants it.
        """
        decisions: list[Decision] = []
        for task_id, attempt in tasks:
            task = self._tasks.get(task_id)
            if task is None or task.attempt != attempt or task.state is TaskState.WAITING:
                continue
            lane = self._lanes[task.shape]
            lane.ready.pop(task_id, None)
            self._leave_queue(task, lane)
            self._disown(task, lane)
            if lease_id in self._lost:
                decisions += self._again(task, "its executor was lost", died=False)
                continue
            task.lease_id, task.worker_id, task.state, task.started_at = lease_id, worker_id, TaskState.RUNNING, now
            self._takings += 1
            task.taken = self._takings
            lane.owned[lease_id] += 1
        return decisions

    def unwanted(self, tasks: Iterable[tuple[str, int]]) -> tuple[str, ...]:
        """Return which of the tasks that an executor took have ended already."""
        return tuple(task_id for task_id, _ in tasks if task_id not in self._tasks)

    @staticmethod
    def _disown(task: Task, lane: _Lane) -> None:
        if task.lease_id:
            lane.owned[task.lease_id] -= 1
            if not lane.owned[task.lease_id]:
                del lane.owned[task.lease_id]
            task.lease_id = ""

    def reply(self, lease_id: str, reply: TaskReply) -> list[Decision]:
        """Apply the end of one attempt. A value counts from any attempt, a loss only from the newest."""
        if reply.outcome in _DEATHS:  # Its process is gone.
            self._lost.add(lease_id)
            return [*self._end_of_attempt(lease_id, reply), *self.forget_owner(lease_id)]
        return self._end_of_attempt(lease_id, reply)

    def _end_of_attempt(self, lease_id: str, reply: TaskReply) -> list[Decision]:
        task = self._tasks.get(reply.task_id)
        if task is None:  # Committed before: the reply came twice, or two attempts ran.
            return []
        if reply.outcome in _FINAL:
            if reply.outcome is TaskOutcome.OK:
                self.times.note(task.function.function_id, reply.wall_s, reply.waited_s)
            task.started_at = reply.started_at or task.started_at
            # Another attempt of it may run, after a loss that was none.
            other = [Interrupt(task, task.lease_id, task.worker_id)] if task.lease_id not in {"", lease_id} else []
            result = TaskResult(reply.task_id, reply.outcome, reply.value, reply.value_digest, reply.text)
            return [*other, *self._finish(task, result, reply.cpu_s, reply.peak_mem_bytes)]
        stale = task.attempt != reply.attempt or task.lease_id not in {"", lease_id}
        if stale or task.state is TaskState.WAITING:
            return []
        return self._again(task, reply.text, died=reply.outcome is TaskOutcome.EXECUTOR_DIED)

    def lost(self, lease_id: str, cause: str) -> list[Decision]:
        """Take back what a lease owned: its executor, or its whole worker, is gone.

        An executor runs its tasks in their order, so only the first that has not ended can have had to do with it.
        """
        self._lost.add(lease_id)
        decisions: list[Decision] = []
        owned = [task for task in self._tasks.values() if task.lease_id == lease_id]
        owned.sort(key=lambda task: task.taken)
        for task in reversed(owned):  # The first comes to stand before the others again.
            decisions += self._again(task, cause, died=task is owned[0])
        return decisions + self.forget_owner(lease_id)

    def forget_owner(self, lease_id: str) -> list[Decision]:
        """End the tasks that a task of this lease has submitted: nobody can ask for their values any more."""
        orphans = [task for task in self._tasks.values() if task.owner is not None and task.owner.lease_id == lease_id]
        return self.cancel([task.task_id for task in orphans], "the task that started it is gone")

    def _again(self, task: Task, cause: str, *, died: bool) -> list[Decision]:
        lane = self._lanes[task.shape]
        self._leave_queue(task, lane)
        self._disown(task, lane)
        task.losses += died
        if task.losses > task.function.max_retries:
            times = "once" if task.losses == 1 else f"{task.losses} times"
            text = f"task {task.function.name} lost its executor {times}; the last time: {cause}"
            return self._finish(task, TaskResult(task.task_id, TaskOutcome.EXECUTOR_DIED, text=text))
        task.attempt += 1
        task.started_at = 0.0
        self._wait_in(lane, task, first=True)
        return []

    # --- Ends ----------------------------------------------------------------------------------

    def cancel(self, task_ids: Iterable[str], why: str = "") -> list[Decision]:
        """End tasks that nobody wants any more, and what they submitted; those that have ended stay as they are."""
        decisions: list[Decision] = []
        for task_id in task_ids:
            task = self._tasks.get(task_id)
            if task is None:
                continue
            if task.lease_id:
                decisions.append(Interrupt(task, task.lease_id, task.worker_id))
            text = f"task {task.function.name} was canceled" + (f": {why}" if why else "")
            decisions += self._finish(task, TaskResult(task_id, TaskOutcome.CANCELED, text=text))
            if task_id in self._children:
                decisions += self.cancel(list(self._children[task_id]), "the task that started it was canceled")
        return decisions

    def deadlocked(self, waiting: AbstractSet[str], limit: Shape) -> list[str]:
        """Return the tasks of tasks that can never start.

        That is so when each executor of the job waits inside a task for others, and together they leave no room within
        the job's limit: their cpu is lent, their memory and gpus are not.
        """
        held_bytes, held_gpus = 0, 0
        for shape, lane in self._lanes.items():
            if any(lease not in waiting for lease in lane.owned):
                return []
            held_bytes += shape.mem_bytes * len(lane.owned)
            held_gpus += shape.gpus * len(lane.owned)
        return [
            task.task_id
            for task in self._tasks.values()
            if task.owner is not None
            and task.state is TaskState.QUEUED
            and (held_bytes + task.shape.mem_bytes > limit.mem_bytes or held_gpus + task.shape.gpus > limit.gpus)
        ]

    def fail(self, task_ids: Iterable[str], outcome: str, text: str) -> list[Decision]:
        """End tasks that cannot be run."""
        decisions: list[Decision] = []
        for task_id in task_ids:
            task = self._tasks.get(task_id)
            if task is not None:
                decisions += self._finish(task, TaskResult(task_id, outcome, text=f"task {task.function.name}: {text}"))
        return decisions

    def refuse(self, shape: Shape, text: str) -> list[Decision]:
        """End every task of a shape that no worker could ever run."""
        refused = [task for task in self._tasks.values() if task.shape == shape]
        decisions: list[Decision] = []
        for task in refused:
            if task.task_id in self._tasks:  # It may have ended with one that it waited for.
                decisions += self._finish(task, TaskResult(task.task_id, TaskState.UNSCHEDULABLE, text=text))
        return decisions

    def _finish(self, task: Task, result: TaskResult, cpu_s: float = 0.0, peak_mem_bytes: int = 0) -> list[Decision]:
        """End a task, and with a failed one those that wait for its value."""
        decisions: list[Decision] = [self._remove(task, result, cpu_s, peak_mem_bytes)]
        ended = [(task, result)] if self._waiters else []
        while ended:
            of, how = ended.pop()
            for waiter in self._waiters.pop(of.task_id, ()):
                if waiter.task_id not in self._tasks:
                    continue
                if how.outcome == TaskOutcome.OK:
                    self._give(waiter, how)
                    continue
                failed = replace(how, task_id=waiter.task_id)
                decisions.append(self._remove(waiter, failed))
                ended.append((waiter, failed))
        return decisions

    def lighten(self, task: Task, index: int, digest: str) -> None:
        """Note that a value which a task is given has been stored, and travels by its digest."""
        self.inline_bytes -= self._counted(task)
        task.inputs[index] = TaskInput("", None, digest)
        self.inline_bytes += self._counted(task)

    def _counted(self, task: Task) -> int:
        return task.size_bytes if self._tasks.get(task.task_id) is task else 0

    def _give(self, waiter: Task, value: TaskResult) -> None:
        self.inline_bytes -= waiter.size_bytes
        for index, given in enumerate(waiter.inputs):
            if given.task_id == value.task_id:
                waiter.inputs[index] = TaskInput("", value.value, value.value_digest)
        self.inline_bytes += waiter.size_bytes
        waiter.missing -= 1
        if not waiter.missing:
            self._make_ready(waiter)

    def _remove(self, task: Task, result: TaskResult, cpu_s: float = 0.0, peak_mem_bytes: int = 0) -> Finished:
        del self._tasks[task.task_id]
        self.inline_bytes -= task.size_bytes
        if task.owner is not None:
            siblings = self._children[task.owner.parent_id]
            del siblings[task.task_id]
            if not siblings:
                del self._children[task.owner.parent_id]
        if task.state is not TaskState.WAITING:
            lane = self._lanes[task.shape]
            lane.unfinished -= 1
            if task.batch:
                self._leave_queue(task, lane)
            elif task.lease_id:
                self._disown(task, lane)
            else:
                lane.ready.pop(task.task_id, None)
        return Finished(task, result, cpu_s, peak_mem_bytes)
