"""Tasks that a task starts: its executor's agent passes them to the driver's agent, which runs them like any other."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from qonduit_service_kit.bus import BusError
from qonduit_service_kit.logs import get_logger
from qonduit_service_kit.messages import (
    SCHEDULER,
    DriverWaiting,
    ExecutorGranted,
    SubmittedTask,
    TaskFunction,
    TaskRequests,
    TaskResults,
)

from qonduit_worker.tasks.requests import BadTaskError, read_function, read_ids, read_tasks, refusals
from qonduit_worker.tasks.results import row_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qonduit_worker.tasks.context import Surroundings

_MOST_BYTES: Final = 48 * 1024
_log = get_logger(__name__)


class NestedTasks:
    """What the process of one executor asks about tasks; what it says in one turn of the loop goes in one message."""

    def __init__(
        self,
        grant: ExecutorGranted,
        surroundings: Surroundings,
        *,
        parent: Callable[[], str],
        push: Callable[..., None],
    ) -> None:
        self._grant = grant
        self._worker_id = surroundings.worker_id
        self._bus = surroundings.bus
        self._post = surroundings.post
        self._parent = parent
        self._push = push
        self._functions: list[TaskFunction] = []
        self._tasks: list[SubmittedTask] = []
        self._cancel: list[str] = []
        self._sending: asyncio.Task[None] | None = None
        self._waiting_sequence = 0
        self._telling: set[asyncio.Task[None]] = set()

    def define(self, fields: Mapping[str, Any]) -> None:
        """Take a function (untrusted); raises BadTaskError."""
        self._functions.append(read_function(fields))

    def submit(self, fields: Mapping[str, Any]) -> None:
        """Take tasks (untrusted); those that make no sense are refused with a text."""
        try:
            self._tasks += read_tasks(fields)
        except BadTaskError as error:
            self._push("tasks_done", tasks=[row_of(result) for result in refusals(fields, error)])
            return
        self._send_soon()

    def cancel(self, fields: Mapping[str, Any]) -> None:
        """Cancel tasks (untrusted); raises BadTaskError."""
        self._cancel += read_ids(fields.get("tasks"))
        self._send_soon()

    def handle(self, message: TaskResults) -> None:
        """Tell the process how its tasks ended; it knows what comes twice by its id."""
        if message.results:
            self._push("tasks_done", tasks=[row_of(result) for result in message.results])
        if message.unknown:
            self._push("tasks_unknown", tasks=list(message.unknown))

    def waiting(self, waiting: bool) -> None:  # noqa: FBT001 - It is the fact that is told.
        """Tell the scheduler that the task in hand blocks in get() and lends its cpu, or goes on."""
        self._waiting_sequence += 1
        told = DriverWaiting(self._worker_id, self._grant.lease_id, waiting, self._waiting_sequence)
        telling = asyncio.create_task(self._bus.publish(SCHEDULER, told))
        self._telling.add(telling)
        telling.add_done_callback(self._told)

    def _told(self, telling: asyncio.Task[None]) -> None:
        self._telling.discard(telling)
        if not telling.cancelled() and isinstance(error := telling.exception(), BusError):
            _log.warning(
                "waiting_not_told", lease=self._grant.lease_id, reason=str(error)
            )  # A heartbeat tells it, too.

    def _send_soon(self) -> None:
        if self._sending is None:
            self._sending = asyncio.create_task(self._send_all())

    async def _send_all(self) -> None:
        grant = self._grant
        try:
            while self._tasks or self._cancel:
                functions, self._functions = self._functions, []
                tasks, self._tasks = _first(self._tasks)
                cancel, self._cancel = self._cancel, []
                message = TaskRequests(
                    job_id=grant.job_id,
                    job_attempt=grant.attempt,
                    lease_id=grant.lease_id,
                    worker_id=self._worker_id,
                    parent_id=self._parent(),
                    functions=tuple(functions),
                    tasks=tuple(tasks),
                    cancel=tuple(cancel),
                )
                await self._post(grant.driver_worker_id, message)
        finally:
            self._sending = None


def _first(tasks: list[SubmittedTask]) -> tuple[list[SubmittedTask], list[SubmittedTask]]:
    """Split off as many tasks as one message may carry, at least one."""
    size_bytes = 0
    for index, task in enumerate(tasks):
        size_bytes += len(task.call or b"") + sum(len(given.value or b"") for given in task.inputs) + 200
        if index and size_bytes > _MOST_BYTES:
            return tasks[:index], tasks[index:]
    return tasks, []
