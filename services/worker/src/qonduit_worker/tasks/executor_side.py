"""The executor's side of the task layer: it takes tasks from the job's queue and runs them one after another."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Protocol

from qonduit_service_kit.bus import Bus, Delivery, Subscription, UnroutableError, tasks_queue
from qonduit_service_kit.logs import get_logger
from qonduit_service_kit.messages import (
    INLINE_LIMIT_BYTES,
    ExecutorGranted,
    ExecutorOutput,
    TaskBatch,
    TaskCall,
    TaskOutcome,
    TaskReplies,
    TaskReply,
    TasksTaken,
    task_queue,
    worker,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qonduit_worker.sandbox import Exit, Usage
    from qonduit_worker.tasks.driver_side import Blobs

_log = get_logger(__name__)

HOLD_S = 0.2
"""A delivery waits this long for the task in hand; then it goes back, so that an idle executor can have it."""
TEXT_BYTES = 16 * 1024


class ExecutorProcess(Protocol):
    """The sandboxed process of one executor, as the agent started it."""

    output: asyncio.StreamReader

    async def push(self, name: str, **fields: Any) -> None:
        """Send to the process; returns once written."""
        ...

    def usage(self) -> Usage:
        """Read what its tree used so far."""
        ...

    async def wait(self) -> Exit:
        """Wait for the end of its tree."""
        ...

    def kill(self) -> None:
        """End its tree at once."""
        ...


class ExecutorDesk:
    """Serves one executor's lease from its grant to its end."""

    def __init__(
        self, grant: ExecutorGranted, worker_id: str, bus: Bus, blobs: Blobs, process: ExecutorProcess
    ) -> None:
        self._grant = grant
        self._worker_id = worker_id
        self._bus = bus
        self._blobs = blobs
        self._process = process
        self._queue = tasks_queue(task_queue(grant.job_id, grant.attempt, grant.shape))
        self._subscription: Subscription | None = None
        self._idle = asyncio.Event()
        self._ready = asyncio.Event()
        self._revoked = False
        self._results: dict[tuple[str, int], asyncio.Future[Mapping[str, Any]]] = {}
        self._running: set[asyncio.Task[None]] = set()
        self.idle_since: float | None = time.time()

    async def run(self) -> None:
        """Take and run tasks until the process ends or the lease is revoked."""
        self._idle.set()
        pump = asyncio.create_task(self._pump_output())
        await self._consume()
        exited = await self._process.wait()
        self._revoked = True
        await self._pause()
        for result in self._results.values():
            if not result.done():
                result.set_result(_death(exited, self._grant))
        await asyncio.gather(*self._running)
        await pump

    def ready(self) -> None:
        """Note that the process is up and listens."""
        self._ready.set()

    async def on_result(self, fields: Mapping[str, Any]) -> None:
        """Take a task's result from the process; one that was not asked for is ignored."""
        result = self._results.get((str(fields.get("task_id")), int(fields.get("attempt", 0))))
        if result is not None and not result.done():
            result.set_result(fields)

    async def revoke(self, *, now: bool) -> None:
        """Give the lease back: after the task in hand, or at once."""
        self._revoked = True
        if now:
            self._process.kill()
            return
        await self._pause()
        await self._idle.wait()
        await self._process.push("executor_end")

    async def _consume(self) -> None:
        if not self._revoked and self._subscription is None:
            self._subscription = await self._bus.consume(self._queue, self._take, prefetch=1)

    async def _pause(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await subscription.cancel()

    async def _take(self, delivery: Delivery) -> None:
        """Own a batch: say so to the driver's agent, then acknowledge, then run it.

        No delivery is held while user code runs for long: RabbitMQ would close the channel after 30 minutes,
        and an idle executor elsewhere could have it. A crash before the acknowledgement brings the batch to
        another executor; a crash after it is told to the driver's agent as a lost lease.
        """
        try:
            await asyncio.wait_for(self._idle.wait(), HOLD_S)
        except TimeoutError:
            await delivery.requeue()
            self._spawn(self._pause())
            return
        batch = delivery.message
        if self._revoked or not isinstance(batch, TaskBatch):
            await delivery.requeue()
            return
        owned = tuple((task.task_id, task.attempt) for task in batch.tasks)
        grant = self._grant
        taken = TasksTaken(grant.job_id, grant.attempt, grant.lease_id, self._worker_id, owned)
        await self._tell_driver(taken)
        await delivery.ack()
        self._idle.clear()
        self.idle_since = None
        self._spawn(self._run_batch(batch))

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _run_batch(self, batch: TaskBatch) -> None:
        await self._ready.wait()
        for task in batch.tasks:
            reply = await self._run_task(task)
            grant = self._grant
            await self._tell_driver(TaskReplies(grant.job_id, grant.attempt, grant.lease_id, (reply,)))
        self.idle_since = time.time()
        self._idle.set()
        await self._consume()

    async def _run_task(self, task: TaskCall) -> TaskReply:
        result: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        self._results[task.task_id, task.attempt] = result
        before, started = self._process.usage(), time.monotonic()
        try:
            await self._process.push(
                "task_run",
                task_id=task.task_id,
                attempt=task.attempt,
                task_name=task.name,
                call=task.call,
                call_digest=task.call_digest,
            )
            fields = await result
        except ConnectionError:
            fields = _death(await self._process.wait(), self._grant)
        finally:
            del self._results[task.task_id, task.attempt]
        after = self._process.usage()
        value, digest = fields.get("value"), str(fields.get("value_digest", ""))
        if isinstance(value, bytes) and len(value) > INLINE_LIMIT_BYTES:
            digest = await self._blobs.put(value)
            value = None
        return TaskReply(
            task_id=task.task_id,
            attempt=task.attempt,
            outcome=_outcome(fields),
            value=value if isinstance(value, bytes) else None,
            value_digest=digest,
            text=str(fields.get("text", ""))[-TEXT_BYTES:],
            cpu_s=max(0.0, after.cpu_seconds - before.cpu_seconds),
            wall_s=time.monotonic() - started,
            peak_mem_bytes=after.peak_mem_bytes,
        )

    async def _pump_output(self) -> None:
        """Carry what the process prints to the driver's agent, which alone writes the job's log."""
        sequence = 0
        while chunk := await self._process.output.read(INLINE_LIMIT_BYTES):
            sequence += 1
            grant = self._grant
            await self._tell_driver(
                ExecutorOutput(grant.job_id, grant.attempt, grant.lease_id, sequence, chunk)
            )

    async def _tell_driver(self, message: object) -> None:
        try:
            await self._bus.publish(worker(self._grant.driver_worker_id), message)
        except UnroutableError:
            # The driver's worker is gone for good, and its attempt with it: nobody waits for this.
            _log.info("driver_gone", job=self._grant.job_id, lease=self._grant.lease_id)


def _outcome(fields: Mapping[str, Any]) -> TaskOutcome:
    """Read the outcome; what the process says is untrusted, so an unknown word is an error of the task."""
    try:
        return TaskOutcome(str(fields.get("outcome")))
    except ValueError:
        return TaskOutcome.ERROR


def _death(exited: Exit, grant: ExecutorGranted) -> dict[str, Any]:
    if exited.oom_killed:
        mib = 1024**2
        text = (
            f"the task used more than its {grant.shape.mem_bytes / mib:,.0f} MiB of memory "
            f'(peak {exited.peak_mem_bytes / mib:,.0f} MiB); give its target a larger "mem"'
        )
        return {"outcome": TaskOutcome.OUT_OF_MEMORY, "text": text}
    how = f"signal {exited.signal}" if exited.signal else f"exit code {exited.exit_code}"
    return {"outcome": TaskOutcome.EXECUTOR_DIED, "text": f"its executor ended with {how}"}
