"""The driver's side of the task layer: it publishes tasks, knows which lease owns them, commits their values."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from qonduit_service_kit.bus import Bus, BusClosedError, BusError, UnroutableError, tasks_queue
from qonduit_service_kit.logs import get_logger
from qonduit_service_kit.messages import (
    INLINE_LIMIT_BYTES,
    SCHEDULER,
    Address,
    DemandRefused,
    DriverWaiting,
    ExecutorLost,
    ExecutorOutput,
    Shape,
    Stage,
    TaskBatch,
    TaskCall,
    TaskDemand,
    TaskReplies,
    TasksTaken,
    task_queue,
)

from qonduit_worker.blobs import is_digest
from qonduit_worker.tasks.ledger import Decision, Finished, TaskLedger
from qonduit_worker.tasks.output import TaskOutput

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

_log = get_logger(__name__)

DEMAND_PAUSE_S = 0.02
"""Demand changes within this time are told to the scheduler as one count."""
DEMAND_AGAIN_S = 1.0
TASK_ID_CHARACTERS = 64
NAME_CHARACTERS = 200
MOST_UNFINISHED = 100_000
"""Tasks that one driver may have unfinished: each is kept here until it ends."""
MOST_INLINE_BYTES = 32 * 1024**2
"""Bytes of calls that are kept here for one driver; further ones go through storage, however small."""
MOST_SHAPES = 256
"""Each shape is a queue."""
_MOST_AMOUNT = 2**60


class Blobs(Protocol):
    """Storage of large bytes by digest, with this job's ticket."""

    async def put(self, data: bytes) -> str:
        """Store bytes; return their digest."""
        ...


@dataclass(frozen=True, slots=True)
class DriverContext:
    """What the desk must know of the attempt it serves."""

    job_id: str
    attempt: int
    user: str
    worker_id: str
    lease_id: str
    limit: Shape
    storage_ticket: str
    artifact_digest: str
    environment: dict[str, str] = field(default_factory=dict)
    dependencies: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DriverCallbacks:
    """What the desk asks of the attempt it serves."""

    push: Callable[..., Awaitable[None]]
    """push(name, **fields) to the program."""
    stage: Callable[[], Stage]
    """The stage the job is in now."""
    book: Callable[[Stage, float, int], None]
    """book(stage, cpu seconds, peak bytes) of one attempt of a task."""
    write_log: Callable[[bytes], Awaitable[None]]
    """Write to the job's log."""


class BadTaskError(ValueError):
    """The program sent a task that makes no sense; the text says what is wrong with it."""


class TaskDesk:
    """Serves one driver's tasks from its start to its end."""

    def __init__(self, context: DriverContext, bus: Bus, blobs: Blobs, callbacks: DriverCallbacks) -> None:
        self._context = context
        self._bus = bus
        self._blobs = blobs
        self._callbacks = callbacks
        self._ledger = TaskLedger()
        self._declared: set[Shape] = set()
        self._demand_sequence = 0
        self._waiting_sequence = 0
        self._dirty: set[Shape] = set()
        self._demand_changed = asyncio.Event()
        self._output = TaskOutput(callbacks.write_log)
        self._workers_of_leases: dict[str, str] = {}
        self._demand_teller = asyncio.create_task(self._tell_demand())
        self._closed = False
        self.lends_cpu = False

    async def submit(self, tasks: Iterable[Mapping[str, Any]]) -> None:
        """Take tasks from the program (untrusted) and publish them; raises BadTaskError."""
        wanted = [(task, _shape_of(task)) for task in tasks]
        if len(self._ledger) + len(wanted) > MOST_UNFINISHED:
            raise BadTaskError(f"at most {MOST_UNFINISHED} tasks may be unfinished: get() some before starting more")
        shapes = {shape for _, shape in wanted}
        if len(shapes.union(self._ledger.shapes)) > MOST_SHAPES:
            raise BadTaskError(f"the tasks of one job may have at most {MOST_SHAPES} different targets")
        calls = [(await self._call_of(task), shape) for task, shape in wanted]
        for shape in shapes:
            await self._declare(shape)
        for call, shape in calls:
            self._ledger.add(call, shape)
        await asyncio.gather(*(self._publish(call, shape) for call, shape in calls))

    async def _call_of(self, task: Mapping[str, Any]) -> TaskCall:
        task_id, name = str(task.get("task_id", "")), str(task.get("name", ""))[:NAME_CHARACTERS]
        if not 0 < len(task_id) <= TASK_ID_CHARACTERS:
            raise BadTaskError(f"a task id has 1 to {TASK_ID_CHARACTERS} characters")
        call, digest = task.get("call"), str(task.get("call_digest", ""))
        if not (isinstance(call, bytes) and not digest) and not (call is None and is_digest(digest)):
            raise BadTaskError("a task carries either its call or the call's digest")
        room = min(INLINE_LIMIT_BYTES, MOST_INLINE_BYTES - self._ledger.inline_bytes)
        if call is not None and len(call) > room:
            digest = await self._blobs.put(call)
            call = None
        return TaskCall(task_id, 1, name, self._callbacks.stage(), call, digest)

    async def _declare(self, shape: Shape) -> None:
        if shape not in self._declared:
            await self._bus.declare(tasks_queue(self._address(shape)))
            self._declared.add(shape)

    def _address(self, shape: Shape) -> Address:
        return task_queue(self._context.job_id, self._context.attempt, shape)

    async def _publish(self, call: TaskCall, shape: Shape) -> None:
        """Put a task in its queue: in memory only, as what RabbitMQ forgets is sent again from here."""
        self._note_demand(shape)
        batch = TaskBatch(self._context.job_id, self._context.attempt, (call,))
        try:
            await self._bus.publish(self._address(shape), batch, persistent=False)
        except UnroutableError:
            if self._closed:
                return
            # The queue is gone (RabbitMQ was wiped, or the queue expired): make it again.
            await self._bus.declare(tasks_queue(self._address(shape)))
            await self._bus.publish(self._address(shape), batch, persistent=False)

    async def send_queued_again(self) -> None:
        """Publish every task that no lease owns: the broker was away and may have forgotten them.

        One that it had not forgotten runs twice and is committed once.
        """
        await asyncio.gather(*(self._publish(task.call, task.shape) for task in self._ledger.queued()))

    async def handle(self, message: object) -> None:
        """Apply a message about this attempt's tasks; one that comes twice changes nothing."""
        match message:
            case TasksTaken():
                self._workers_of_leases[message.lease_id] = message.worker_id
                for decision in self._ledger.taken(message.lease_id, message.tasks):
                    await self._apply(decision)
            case TaskReplies():
                for reply in message.replies:
                    await self._apply(self._ledger.reply(message.lease_id, reply), reply.cpu_s, reply.peak_mem_bytes)
            case ExecutorLost():
                for decision in self._ledger.lost(message.lease_id, message.cause):
                    await self._apply(decision)
            case DemandRefused():
                for finished in self._ledger.refuse(message.shape, message.text):
                    await self._apply(finished)
            case ExecutorOutput():
                self._output.take(message)
            case _:
                raise TypeError(f"{type(message).__name__} is no message about tasks")

    async def _apply(self, decision: Decision | None, cpu_s: float = 0.0, peak_mem_bytes: int = 0) -> None:
        if decision is None:
            return
        self._callbacks.book(decision.task.call.stage, cpu_s, peak_mem_bytes)
        if not isinstance(decision, Finished):
            _log.info("task_sent_again", task=decision.task.task_id, attempt=decision.task.call.attempt)
            await self._publish(decision.task.call, decision.task.shape)
            return
        self._note_demand(decision.task.shape)
        await self._callbacks.push(
            "task_done",
            task_id=decision.task.task_id,
            outcome=str(decision.outcome),
            value=decision.value,
            value_digest=decision.value_digest,
            text=decision.text,
        )

    async def waiting(self, waiting: bool) -> None:  # noqa: FBT001 - It is the fact that is told.
        """Tell the scheduler that the driver blocks in get() and lends its cpu, or goes on."""
        self.lends_cpu = waiting
        self._waiting_sequence += 1
        context = self._context
        told = DriverWaiting(context.worker_id, context.lease_id, waiting, self._waiting_sequence)
        await self._bus.publish(SCHEDULER, told)

    def _note_demand(self, shape: Shape) -> None:
        self._dirty.add(shape)
        self._demand_changed.set()

    async def _tell_demand(self) -> None:
        """Tell the scheduler the newest count of each shape, at most once a pause."""
        while True:
            await self._demand_changed.wait()
            self._demand_changed.clear()
            shapes, self._dirty = self._dirty, set()
            try:
                await asyncio.gather(*(self._bus.publish(SCHEDULER, self.demand(shape)) for shape in shapes))
            except BusClosedError:
                return
            except BusError as error:
                # Without its demand this driver would wait for ever.
                _log.warning("demand_not_told", job=self._context.job_id, reason=str(error))
                await asyncio.sleep(DEMAND_AGAIN_S)
                for shape in shapes:
                    self._note_demand(shape)
            await asyncio.sleep(DEMAND_PAUSE_S)

    def demand(self, shape: Shape) -> TaskDemand:
        """Return the present demand for a shape, newer than any before."""
        self._demand_sequence += 1
        context = self._context
        return TaskDemand(
            job_id=context.job_id,
            attempt=context.attempt,
            worker_id=context.worker_id,
            user=context.user,
            shape=shape,
            unfinished=self._ledger.unfinished(shape),
            sequence=self._demand_sequence,
            limit=context.limit,
            executors=tuple((lease, self._workers_of_leases[lease]) for lease in sorted(self._ledger.owners(shape))),
            storage_ticket=context.storage_ticket,
            environment=context.environment,
            artifact_digest=context.artifact_digest,
            dependencies=context.dependencies,
        )

    async def tell_demand_again(self) -> None:
        """Tell all demand: a new scheduler was elected and knows nothing of it."""
        for shape in self._ledger.shapes:
            self._note_demand(shape)

    async def close(self) -> None:
        """End with the driver: withdraw the demand and delete the queues. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self._demand_teller.cancel()
        await asyncio.gather(self._demand_teller, return_exceptions=True)
        await self._output.close()
        for shape in self._declared:
            await self._bus.delete(tasks_queue(self._address(shape)))


def _shape_of(task: Mapping[str, Any]) -> Shape:
    amounts = [task.get("cpu_millis"), task.get("mem_bytes"), task.get("gpus", 0)]
    if not all(isinstance(amount, int) and 0 <= amount <= _MOST_AMOUNT for amount in amounts):
        raise BadTaskError("a task's target has cpu_millis, mem_bytes and gpus as whole numbers")
    shape = Shape(*amounts)
    if shape.cpu_millis < 1 or shape.mem_bytes < 1:
        raise BadTaskError("a task's target must ask for some cpu and some memory")
    return shape
