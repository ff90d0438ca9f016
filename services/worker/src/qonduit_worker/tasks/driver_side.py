"""The driver's side of the task layer: it publishes tasks, knows which lease owns them, commits their values."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from qonduit_service_kit import tracing
from qonduit_service_kit.logs import get_logger
from qonduit_service_kit.messages import (
    DemandRefused,
    ExecutorLost,
    ExecutorOutput,
    Shape,
    SubmittedTask,
    TaskFunction,
    TaskReplies,
    TaskReply,
    TaskRequests,
    TaskResult,
    TaskResults,
    TasksCanceled,
    TasksTaken,
    TaskState,
)

from qonduit_worker.tasks.demand import DemandTeller
from qonduit_worker.tasks.ledger import TaskLedger
from qonduit_worker.tasks.lending import Lending
from qonduit_worker.tasks.output import TaskOutput
from qonduit_worker.tasks.publishing import BatchPublisher
from qonduit_worker.tasks.records import TaskPages
from qonduit_worker.tasks.reporting import PageTeller
from qonduit_worker.tasks.requests import REFUSED, BadTaskError, read_function, read_ids, read_tasks, refusals
from qonduit_worker.tasks.results import in_parts, row_of
from qonduit_worker.tasks.task import Decision, Finished, Interrupt, Owner, Task, Unknown

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Mapping

    from qonduit_service_kit.bus import Bus

    from qonduit_worker.tasks.context import DriverCallbacks, DriverContext, Post

_log = get_logger(__name__)

_SLICE = 1000

MOST_UNFINISHED = 100_000
"""Tasks that one driver may have unfinished: beyond that its program waits before it can submit more."""
MOST_INLINE_BYTES = 64 * 1024**2
"""Bytes of calls that are kept here for one driver; beyond that its program waits before it can submit more."""
MOST_SHAPES = 256
"""Each shape is a queue."""
MOST_FUNCTIONS = 10_000
MOST_UNSENT_BYTES = 16 * 1024**2
"""Of results that the program has not read: beyond that no more batches go out."""
UNSENT_PAUSE_S = 0.1


class TaskDesk:
    """Serves one driver's tasks from its start to its end.

    What happens in one turn of the event loop goes out together at its end: so many small tasks share a message,
    and a single one does not wait.
    """

    def __init__(self, context: DriverContext, bus: Bus, post: Post, callbacks: DriverCallbacks) -> None:
        self._context = context
        self._bus = bus
        self._post = post
        self._callbacks = callbacks
        self._ledger = TaskLedger()
        self._pages = TaskPages(context.job_id, context.attempt, place=tracing.current(), provider=context.provider)
        self._functions: dict[str, TaskFunction] = {}
        self._publisher = BatchPublisher(context, bus, self._ledger, callbacks, self._refuse)
        self._output = TaskOutput(callbacks.write_log, callbacks.note_log)
        self._demand = DemandTeller(context, bus, self._ledger)
        self._reports = PageTeller(bus, self._pages)
        self._room = asyncio.Event()
        self._room.set()
        self._touched: set[Shape] = set()
        self._results: list[TaskResult] = []
        self._unknown: list[str] = []
        self._for_owners: dict[Owner, tuple[list[TaskResult], list[str]]] = {}
        self._turn_due = False
        self._sending: set[asyncio.Task[None]] = set()
        self._requests_seen: dict[str, int] = {}
        self._waiting: set[str] = set()
        """Leases whose task in hand waits for others."""
        self._interrupted: dict[str, dict[str, Task]] = {}
        """By lease: tasks that have ended here and may still run there."""
        self._lending = Lending(bus, context.worker_id, context.lease_id)
        self._ended = False
        """The program is over: nobody is told any more."""
        self._closed = False

    # --- What programs ask ---------------------------------------------------------------------

    def define(self, fields: Mapping[str, Any]) -> None:
        """Take a function from the program (untrusted)."""
        try:
            self._define(read_function(fields))
        except BadTaskError as error:
            # The tasks that name it are refused with a text of their own.
            _log.warning("bad_task_function", job=self._context.job_id, reason=str(error))

    def _define(self, function: TaskFunction) -> None:
        if len(self._functions) >= MOST_FUNCTIONS:
            raise BadTaskError(f"one job may distribute at most {MOST_FUNCTIONS} different functions")
        self._functions[function.function_id] = function

    def submit(self, fields: Mapping[str, Any]) -> Coroutine[Any, Any, object] | None:
        """Take tasks from the program (untrusted); returns what to wait for before more are taken."""
        try:
            self._submit(read_tasks(fields), None)
        except BadTaskError as error:
            self._results += refusals(fields, error)
            self._turn_soon()
        return None if self._has_room() else self._wait_for_room()

    async def _wait_for_room(self) -> None:
        """Hold the program until some of its tasks have ended; it lends its cpu to them meanwhile."""
        waits_already = self._lending.lends
        self._lending.set(True)
        await self._room.wait()
        self._lending.set(waits_already)

    def cancel(self, fields: Mapping[str, Any]) -> None:
        """Cancel tasks for the program (untrusted)."""
        self._apply_all(self._ledger.cancel(read_ids(fields.get("tasks"))))

    def _submit(self, tasks: Iterable[SubmittedTask], owner: Owner | None) -> None:
        now, stage = time.time(), self._callbacks.stage()
        for wanted in tasks:
            function = self._functions.get(wanted.function_id)
            refusal = self._refusal(function)
            if refusal or function is None:
                self._tell(owner, TaskResult(wanted.task_id, REFUSED, text=refusal))
                continue
            task = Task(
                wanted.task_id,
                function,
                wanted.call,
                wanted.call_digest,
                list(wanted.inputs),
                wanted.apart,
                stage=stage,
                owner=owner,
            )
            before = len(self._ledger)
            decision = self._ledger.add(task, now)
            if decision is not None:
                self._apply(decision)
            elif len(self._ledger) > before:
                self._pages.add(task)
                self._reports.changed()
            self._touched.add(function.shape)
        self._turn_soon()

    def _refusal(self, function: TaskFunction | None) -> str:
        """Say why a task of a function cannot be taken, '' if it can.

        A driver waits before it has too many unfinished; tasks of tasks cannot be held up, so beyond twice that they
        are refused.
        """
        if function is None:
            return "unknown function"
        shapes = self._ledger.shapes
        if function.shape not in shapes and len(shapes) >= MOST_SHAPES:
            return f"the tasks of one job may have at most {MOST_SHAPES} different targets"
        if len(self._ledger) >= 2 * MOST_UNFINISHED or self._ledger.inline_bytes >= 2 * MOST_INLINE_BYTES:
            return f"this job has {len(self._ledger)} unfinished tasks: get() some before starting more"
        return ""

    def _has_room(self) -> bool:
        if len(self._ledger) < MOST_UNFINISHED and self._ledger.inline_bytes < MOST_INLINE_BYTES:
            self._room.set()
            return True
        self._room.clear()
        return False

    def waiting(self, waiting: bool) -> None:  # noqa: FBT001 - It is the fact that is told.
        """Tell the scheduler that the driver blocks in get() and lends its cpu, or goes on."""
        self._lending.set(waiting)

    @property
    def lends_cpu(self) -> bool:
        """Whether the driver waits and has given its cpu back."""
        return self._lending.lends

    # --- What executors and the scheduler say --------------------------------------------------

    def handle(self, message: object) -> None:
        """Apply a message about this attempt's tasks; one that comes twice changes nothing."""
        match message:
            case TasksTaken():
                self._taken(message)
            case TaskReplies():
                for reply in message.replies:
                    self._book(message.lease_id, reply)
                    self._apply_all(self._ledger.reply(message.lease_id, reply))
            case ExecutorLost():
                self._waiting.discard(message.lease_id)
                self._interrupted.pop(message.lease_id, None)
                self._apply_all(self._ledger.lost(message.lease_id, message.cause))
                self._touched.update(self._ledger.shapes)
                self._turn_soon()
            case DemandRefused():
                self._demand.refused(message.shape)
                self._apply_all(self._ledger.refuse(message.shape, message.text))
            case TaskRequests():
                self._requested(message)
            case ExecutorOutput():
                self._output.take(message)
            case _:
                raise TypeError(f"{type(message).__name__} is no message about tasks")

    def _book(self, lease_id: str, reply: TaskReply) -> None:
        """Count what a task used, also after its cancel: once, as a reply that comes twice finds nothing."""
        task = self._ledger.unfinished_task(reply.task_id)
        if task is not None:
            self._changed(task)
        elif task := self._interrupted.get(lease_id, {}).pop(reply.task_id, None):
            self._pages.used(task, reply.cpu_s, reply.peak_mem_bytes)
            self._reports.changed()
        if task is not None:
            self._callbacks.book(task.stage, reply.cpu_s, reply.peak_mem_bytes)

    def _taken(self, message: TasksTaken) -> None:
        self._demand.know(message.lease_id, message.worker_id)
        self._apply_all(self._ledger.taken(message.lease_id, message.worker_id, message.tasks, time.time()))
        for task_id, _ in message.tasks:
            task = self._ledger.unfinished_task(task_id)
            if task is not None:
                self._changed(task)
        unwanted = self._ledger.unwanted(message.tasks)
        if unwanted:  # Canceled while they lay in the queue, or ended by another attempt.
            self._interrupt(message.worker_id, message.lease_id, unwanted)

    def _requested(self, message: TaskRequests) -> None:
        """Do what a task asks, unless it is gone; what comes twice has a number that is known."""
        if self._ledger.is_lost(message.lease_id) or message.sequence <= self._requests_seen.get(message.lease_id, 0):
            return
        self._requests_seen[message.lease_id] = message.sequence
        for function in message.functions:
            try:
                self._define(function)
            except BadTaskError as error:
                _log.warning("bad_task_function", job=self._context.job_id, reason=str(error))
        self._submit(message.tasks, Owner(message.worker_id, message.lease_id, message.parent_id))
        self._apply_all(self._ledger.cancel(message.cancel))
        if message.waiting is not None:
            (self._waiting.add if message.waiting else self._waiting.discard)(message.lease_id)
        if self._waiting:
            self._end_deadlock()

    def _end_deadlock(self) -> None:
        """End tasks of tasks for which there never will be room: all that could make some waits for them."""
        stuck = self._ledger.deadlocked(self._waiting, self._context.limit)
        if stuck:
            gib = self._context.limit.mem_bytes / 1024**3
            text = (
                f"it cannot start: all executors of this job wait inside tasks, and hold the {gib:g} GiB that the "
                'tasks of the job may have together. Give the tasks that wait less "mem", start fewer of them at a '
                "time, or ask for a higher limit"
            )
            self._apply_all(self._ledger.fail(stuck, TaskState.UNSCHEDULABLE, text))

    def _refuse(self, task_ids: Iterable[str], text: str) -> None:
        self._apply_all(self._ledger.fail(task_ids, REFUSED, text))

    # --- Decisions -----------------------------------------------------------------------------

    def _apply_all(self, decisions: Iterable[Decision]) -> None:
        for decision in decisions:
            self._apply(decision)

    def _apply(self, decision: Decision) -> None:
        match decision:
            case Finished(task=task, result=result):
                self._pages.finished(decision, time.time())
                self._reports.changed()
                self._touched.add(task.shape)
                self._tell(task.owner, result)
                # Nobody reads them any more, so they need not lie there until the job's end.
                for digest in filter(None, (task.call_digest, *task.apart)):
                    self._callbacks.release(digest)
            case Interrupt(task=task, lease_id=lease_id, worker_id=worker_id):
                self._interrupted.setdefault(lease_id, {})[task.task_id] = task
                self._interrupt(worker_id, lease_id, (task.task_id,))
            case Unknown(task_id=task_id, owner=owner):
                unknown = self._unknown if owner is None else self._for_owner(owner)[1]
                unknown.append(task_id)
                self._turn_soon()

    def _tell(self, owner: Owner | None, result: TaskResult) -> None:
        results = self._results if owner is None else self._for_owner(owner)[0]
        results.append(result)
        self._turn_soon()

    def _for_owner(self, owner: Owner) -> tuple[list[TaskResult], list[str]]:
        return self._for_owners.setdefault(owner, ([], []))

    def _changed(self, task: Task) -> None:
        self._pages.changed(task)
        self._reports.changed()
        self._touched.add(task.shape)
        self._turn_soon()

    def _interrupt(self, worker_id: str, lease_id: str, task_ids: tuple[str, ...]) -> None:
        context = self._context
        self._send(self._post(worker_id, TasksCanceled(context.job_id, context.attempt, lease_id, task_ids)))

    # --- What goes out at the end of a turn ----------------------------------------------------

    def _turn_soon(self) -> None:
        if not self._turn_due and not self._closed:
            self._turn_due = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._turn_due = False
        if self._closed:
            return
        results, self._results = self._results, []
        unknown, self._unknown = self._unknown, []
        for part in in_parts(results if not self._ended else []):
            self._callbacks.push("tasks_done", tasks=[row_of(result) for result in part])
        if unknown:
            self._callbacks.push("tasks_unknown", tasks=unknown)
        for_owners, self._for_owners = self._for_owners, {}
        for owner, (told, not_taken) in for_owners.items():
            context = self._context
            for part in (*in_parts(told), *([[]] if not_taken else [])):
                gone = () if part else tuple(not_taken)
                message = TaskResults(context.job_id, context.attempt, owner.lease_id, tuple(part), gone)
                self._send(self._post(owner.worker_id, message))
        touched, self._touched = self._touched, set()
        for shape in touched:
            self._demand.changed(shape)
        if self._callbacks.unsent() > MOST_UNSENT_BYTES:
            # The program is busy and reads nothing: what more tasks return would only pile up here.
            self._touched = touched
            asyncio.get_running_loop().call_later(UNSENT_PAUSE_S, self._turn_soon)
            return
        for shape in touched:
            for batch in self._ledger.next_batches(shape):
                self._send(self._publisher.publish(shape, batch))
        self._has_room()

    def _send(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._sending.add(task)
        task.add_done_callback(self._sent)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not self._closed:
            _log.error("message_not_sent", job=self._context.job_id, exc_info=error)

    # --- Once in a while -----------------------------------------------------------------------

    def send_queued_again(self) -> None:
        """Publish every batch that lies in a queue: the broker was away and may have forgotten it.

        A task that it had not forgotten runs twice and is committed once.
        """
        for shape in self._ledger.shapes:
            self._publisher.forget(shape)
            for batch in self._ledger.in_queue(shape):
                self._send(self._publisher.publish(shape, batch))

    def tell_demand_again(self) -> None:
        """Tell all demand: a new scheduler was elected and knows nothing of it."""
        self._demand.tell_all()

    async def settle(self) -> None:
        """End what is left with its driver, and tell what is known of each task before the attempt's end is told."""
        self._ended = True
        left = self._ledger.unfinished_ids()
        for start in range(0, len(left), _SLICE):
            self._apply_all(self._ledger.cancel(left[start : start + _SLICE], "its program has ended"))
            await asyncio.sleep(0)  # Other jobs of this worker go on meanwhile.
        await self._reports.flush()

    async def close(self) -> None:
        """End with the driver: withdraw the demand and delete the queues. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self._room.set()
        await self._demand.stop()
        await self._lending.stop()
        await self._reports.stop()
        for task in list(self._sending):
            task.cancel()
        await self._output.close()
        await self._publisher.close()
