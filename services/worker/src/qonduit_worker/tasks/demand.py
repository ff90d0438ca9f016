"""How a driver's agent tells the scheduler what its tasks need."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from qonduit_service_kit.bus import BusClosedError, BusError, tasks_queue
from qonduit_service_kit.logs import get_logger
from qonduit_service_kit.messages import SCHEDULER, Shape, TaskDemand, task_queue

if TYPE_CHECKING:
    from qonduit_service_kit.bus import Bus
    from qonduit_service_kit.messages import TaskFunction

    from qonduit_worker.tasks.context import DriverContext
    from qonduit_worker.tasks.ledger import TaskLedger

_log = get_logger(__name__)

PAUSE_S = 0.02
"""Changes within this time are told as one count."""
FALL_S = 0.1
"""A count that falls is told after this time, if it has not risen again by then."""
AGAIN_S = 1.0
REFRESH_S = 600.0
"""A queue that nobody consumes is declared again at least this often: RabbitMQ would delete it after half an hour."""


class DemandTeller:
    """Tells the newest count of each shape, when it makes a difference, and at most once a pause.

    The scheduler never grants more executors than the job's limit holds, so counts beyond that are alike to it.
    """

    def __init__(self, context: DriverContext, bus: Bus, ledger: TaskLedger) -> None:
        self._context = context
        self._bus = bus
        self._ledger = ledger
        self._sequence = 0
        self._told: dict[Shape, int] = {}
        self._due: set[Shape] = set()
        self._changed = asyncio.Event()
        self._workers_of_leases: dict[str, str] = {}
        self._functions: dict[Shape, TaskFunction] = {}
        """The function that stood for each shape last: the scheduler learns from it how long such tasks run."""
        self._fall: asyncio.TimerHandle | None = None
        self._teller = asyncio.create_task(self._tell())
        self._keeper = asyncio.create_task(self._keep_queues())

    def know(self, lease_id: str, worker_id: str) -> None:
        """Note where a lease is."""
        self._workers_of_leases[lease_id] = worker_id

    def changed(self, shape: Shape) -> None:
        """Note that the count of a shape may have changed."""
        most, told = self._most(shape), self._told.get(shape, 0)
        if most > told:
            self._due.add(shape)
            self._changed.set()
        elif most < told and self._fall is None:
            # The next task may come at once, and takes the executor that this one had.
            self._fall = asyncio.get_running_loop().call_later(FALL_S, self._look_again)

    def _look_again(self) -> None:
        self._fall = None
        self._due.update(shape for shape, told in self._told.items() if self._most(shape) != told)
        if self._due:
            self._changed.set()

    def refused(self, shape: Shape) -> None:
        """Note that the scheduler has dropped a shape: its next count is news, whatever it is."""
        self._told.pop(shape, None)

    def tell_all(self) -> None:
        """Tell all counts again."""
        self._due.update(self._ledger.shapes)
        self._changed.set()

    async def stop(self) -> None:
        """End; safe to call twice."""
        if self._fall is not None:
            self._fall.cancel()
        for part in (self._teller, self._keeper):
            part.cancel()
        await asyncio.gather(self._teller, self._keeper, return_exceptions=True)

    def _most(self, shape: Shape) -> int:
        """Return the count, as far as it could matter: one more than the job's limit could ever hold at work.

        Tasks that wait for tasks of their own lend their cpu, so as many executors may be there beside those.
        """
        limit = self._context.limit
        held = [limit.cpu_millis // shape.cpu_millis, limit.mem_bytes // shape.mem_bytes]
        if shape.gpus:
            held.append(limit.gpus // shape.gpus)
        return min(self._ledger.unfinished(shape), min(held) + 1 + self._ledger.parents)

    async def _tell(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            shapes, self._due = self._due, set()
            try:
                await asyncio.gather(*(self._bus.publish(SCHEDULER, self.demand(shape)) for shape in shapes))
            except BusClosedError:
                return
            except BusError as error:
                # Without its demand this driver would wait for ever.
                _log.warning("demand_not_told", job=self._context.job_id, reason=str(error))
                await asyncio.sleep(AGAIN_S)
                self._due |= shapes
                self._changed.set()
            await asyncio.sleep(PAUSE_S)

    async def _keep_queues(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_S)
            for shape in self._ledger.shapes:
                try:
                    await self._bus.declare(tasks_queue(task_queue(self._context.job_id, self._context.attempt, shape)))
                except BusError as error:
                    _log.warning("queue_not_declared", job=self._context.job_id, reason=str(error))

    def demand(self, shape: Shape) -> TaskDemand:
        """Return the present demand for a shape, newer than any before."""
        self._sequence += 1
        self._told[shape] = self._most(shape)
        context = self._context
        foremost = self._ledger.foremost(shape)
        if foremost is not None:
            self._functions[shape] = foremost.function
        function = self._functions.get(shape)
        return TaskDemand(
            job_id=context.job_id,
            attempt=context.attempt,
            worker_id=context.worker_id,
            user=context.user,
            shape=shape,
            unfinished=self._ledger.unfinished(shape),
            sequence=self._sequence,
            limit=context.limit,
            executors=tuple((lease, self._workers_of_leases[lease]) for lease in sorted(self._ledger.owners(shape))),
            storage_ticket=context.storage_ticket,
            environment=context.environment,
            artifact_digest=context.artifact_digest,
            dependencies=context.dependencies,
            qpu_budget_s=context.qpu_budget_s,
            user_qpu_budget_s=context.user_qpu_budget_s,
            files=context.files,
            traceparent=context.traceparent,
            space=context.space,
            provider_space=context.provider_space,
            task_name=function.name if function is not None else "",
            task_s=self._ledger.times.last_two_s(function.function_id) if function is not None else 0.0,
        )
