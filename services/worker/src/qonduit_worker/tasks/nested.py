"""Tasks that a task starts: its executor's agent passes them to the driver's agent, which runs them like any other."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from qonduit_service_kit.messages import ExecutorGranted, SubmittedTask, TaskFunction, TaskRequests, TaskResults

from qonduit_worker.tasks.lending import Lending
from qonduit_worker.tasks.requests import BadTaskError, read_function, read_ids, read_tasks, refusals
from qonduit_worker.tasks.results import row_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from qonduit_worker.tasks.context import Surroundings

_MOST_BYTES: Final = 48 * 1024
_MOST_UNSENT: Final = 10_000
"""Calls and functions that wait to be sent: beyond that the process waits before it can say more."""


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
        self._post = surroundings.post
        self._parent = parent
        self._push = push
        self._functions: list[TaskFunction] = []
        self._tasks: deque[tuple[str, SubmittedTask]] = deque()
        """With the task that was running when they came: it may have ended before they are sent."""
        self._cancel: list[str] = []
        self._waiting: bool | None = None
        self._sequence = 0
        self._sending: asyncio.Task[None] | None = None
        self._room = asyncio.Event()
        self._lending = Lending(surroundings.bus, surroundings.worker_id, grant.lease_id)

    def define(self, fields: Mapping[str, Any]) -> Awaitable[object] | None:
        """Take a function (untrusted); returns what to wait for before more is taken, raises BadTaskError."""
        self._functions.append(read_function(fields))
        return self._send_soon()

    def submit(self, fields: Mapping[str, Any]) -> Awaitable[object] | None:
        """Take tasks (untrusted); those that make no sense are refused with a text. Returns as `define`."""
        parent = self._parent()
        try:
            self._tasks.extend((parent, task) for task in read_tasks(fields))
        except BadTaskError as error:
            self._push("tasks_done", tasks=[row_of(result) for result in refusals(fields, error)])
            return None
        return self._send_soon()

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
        """Tell that the task in hand blocks in get() and lends its cpu, or goes on."""
        self._lending.set(waiting)
        self._waiting = waiting
        self._send_soon()

    async def stop(self) -> None:
        """End; safe to call twice."""
        await self._lending.stop()

    def _send_soon(self) -> Awaitable[object] | None:
        if self._sending is None:
            self._sending = asyncio.create_task(self._send_all())
        if len(self._tasks) + len(self._functions) <= _MOST_UNSENT:
            return None
        self._room.clear()
        return self._room.wait()

    async def _send_all(self) -> None:
        grant = self._grant
        try:
            while self._functions or self._tasks or self._cancel or self._waiting is not None:
                parent, functions, tasks = self._next()
                cancel, self._cancel = self._cancel, []
                waiting, self._waiting = self._waiting, None
                self._sequence += 1
                message = TaskRequests(
                    job_id=grant.job_id,
                    job_attempt=grant.attempt,
                    lease_id=grant.lease_id,
                    worker_id=self._worker_id,
                    parent_id=parent,
                    functions=tuple(functions),
                    tasks=tuple(tasks),
                    cancel=tuple(cancel),
                    sequence=self._sequence,
                    # Told with the last of what was submitted before, so that it is seen as waiting for that.
                    waiting=waiting if not self._tasks else None,
                )
                if self._tasks and self._waiting is None:
                    self._waiting = waiting
                await self._post(grant.driver_worker_id, message)
                if len(self._tasks) + len(self._functions) <= _MOST_UNSENT:
                    self._room.set()
        finally:
            self._sending = None
            self._room.set()

    def _next(self) -> tuple[str, list[TaskFunction], list[SubmittedTask]]:
        """Take off as many functions and tasks of one parent as one message may carry, at least one."""
        size_bytes = 0
        functions: list[TaskFunction] = []
        tasks: list[SubmittedTask] = []
        while self._functions and (not functions or size_bytes < _MOST_BYTES):
            functions.append(self._functions.pop(0))
            size_bytes += len(functions[-1].code or b"")
        if self._functions or not self._tasks:
            return "", functions, tasks
        parent = self._tasks[0][0]
        while self._tasks and self._tasks[0][0] == parent and (not tasks or size_bytes < _MOST_BYTES):
            task = self._tasks.popleft()[1]
            tasks.append(task)
            size_bytes += len(task.call or b"") + sum(len(given.value or b"") for given in task.inputs) + 200
        return parent, functions, tasks
