"""Brings a driver's batches to executors: to one that is idle on this worker at once, all others by their queue."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from qonduit_service_kit.bus import BusClosedError, BusError, MessageTooLargeError, UnroutableError, tasks_queue
from qonduit_service_kit.logs import get_logger
from qonduit_service_kit.messages import Address, Shape, TaskBatch, TaskCall, TaskFunction, task_queue

from qonduit_worker.storage import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from qonduit_service_kit.bus import Bus

    from qonduit_worker.tasks.context import DriverCallbacks, DriverContext
    from qonduit_worker.tasks.ledger import TaskLedger
    from qonduit_worker.tasks.task import Batch, Task

_log = get_logger(__name__)

MOST_TASK_BYTES: Final = 128 * 1024
"""Of a call and its inputs, together in one message."""
AGAIN_S: Final = 1.0


class BatchPublisher:
    """Publishes batches in memory only, as what RabbitMQ forgets is sent again from the ledger.

    Over a lost connection it tries again; tasks that cannot be sent for another reason are given to `fail`.
    """

    def __init__(
        self,
        context: DriverContext,
        bus: Bus,
        ledger: TaskLedger,
        callbacks: DriverCallbacks,
        fail: Callable[[Iterable[str], str], None],
    ) -> None:
        self._context = context
        self._bus = bus
        self._ledger = ledger
        self._callbacks = callbacks
        self._fail = fail
        self._declaring: defaultdict[Shape, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._there: set[Shape] = set()
        self._closed = False

    async def publish(self, shape: Shape, batch: Batch) -> None:
        """Put a batch in its queue, less what was canceled meanwhile."""
        while not self._closed:
            try:
                await self._publish_once(shape, batch)
            except BusClosedError:
                return
            except MessageTooLargeError as error:
                self._give_up(batch, f"it cannot be sent: {error}")
            except BusError as error:
                _log.warning("batch_not_sent", job=self._context.job_id, reason=str(error))
                self.forget(shape)
                await asyncio.sleep(AGAIN_S)
                continue
            except StorageError as error:
                self._give_up(batch, f"a value that it is given cannot be kept: {error}")
            return

    def forget(self, shape: Shape) -> None:
        """Declare a shape's queue again before the next batch: it may be gone."""
        self._there.discard(shape)

    async def close(self) -> None:
        """Delete the queues."""
        self._closed = True
        for shape in {*self._ledger.shapes, *self._declaring}:
            await self._bus.delete(tasks_queue(self._address(shape)))

    def _give_up(self, batch: Batch, text: str) -> None:
        self._fail([task.task_id for task in batch.tasks if task.batch == batch.number], text)

    async def _publish_once(self, shape: Shape, batch: Batch) -> None:
        for task in batch.tasks:
            if task.size_bytes > MOST_TASK_BYTES:
                await self._lighten(task)
        give = None
        if self._ledger.is_foremost(shape, batch):  # Others would be overtaken, for ever if more follow.
            give = self._callbacks.idle_executor(self._context.job_id, self._context.attempt, shape)
        if give is None:
            await self._declared(shape)
        message = self._message(batch)
        if not message.tasks:
            return
        if give is not None:
            await give(message)
            return
        try:
            await self._bus.publish(self._address(shape), message, persistent=False)
        except UnroutableError:
            if self._closed:
                return
            # The queue is gone (RabbitMQ was wiped, or the queue expired): make it again.
            self.forget(shape)
            await self._declared(shape)
            await self._bus.publish(self._address(shape), message, persistent=False)

    async def _lighten(self, task: Task) -> None:
        """Store the values that a task is given, many small ones together too large for a message."""
        for index, given in enumerate(task.inputs):
            if given.value is not None:
                self._ledger.lighten(task, index, await self._callbacks.keep(given.value))

    def _message(self, batch: Batch) -> TaskBatch:
        functions: dict[str, int] = {}
        used: list[TaskFunction] = []
        calls = []
        for task in batch.tasks:
            if task.batch != batch.number:  # It was canceled meanwhile.
                continue
            index = functions.setdefault(task.function.function_id, len(functions))
            if index == len(used):
                used.append(task.function)
            inputs = tuple(task.inputs)
            calls.append(TaskCall(task.task_id, task.attempt, task.number, index, task.call, task.call_digest, inputs))
        context = self._context
        return TaskBatch(context.job_id, context.attempt, batch.number, tuple(used), tuple(calls), batch.expected_s)

    async def _declared(self, shape: Shape) -> None:
        """Make sure that a shape's queue is there; who waits for it goes on before those who come later."""
        async with self._declaring[shape]:
            if shape not in self._there:
                await self._bus.declare(tasks_queue(self._address(shape)))
                self._there.add(shape)

    def _address(self, shape: Shape) -> Address:
        return task_queue(self._context.job_id, self._context.attempt, shape)
