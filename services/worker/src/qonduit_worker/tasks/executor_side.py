"""The executor's side of the task layer: it takes tasks from the job's queue and runs them one after another."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Protocol

from qonduit_service_kit.bus import (
    Bus,
    BusClosedError,
    BusError,
    Delivery,
    Subscription,
    UnroutableError,
    tasks_queue,
)
from qonduit_service_kit.logs import get_logger
from qonduit_service_kit.messages import (
    INLINE_LIMIT_BYTES,
    ExecutorGranted,
    ExecutorLost,
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

from qonduit_worker.blobs import is_digest

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from qonduit_worker.sandbox import Exit, Usage
    from qonduit_worker.tasks.driver_side import Blobs

_log = get_logger(__name__)

HOLD_S = 0.2
"""A delivery waits this long for the task in hand; then it goes back, so that an idle executor can have it."""
END_S = 5.0
"""How long a process that was told to end may take: a thread that a task left behind could keep it for ever."""
AGAIN_S = 1.0
TEXT_CHARACTERS = 16 * 1024


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
        self._turning = asyncio.Lock()
        """Held while a subscription begins or ends: there is never more than one, and none is forgotten."""
        self._idle = asyncio.Event()
        self._ready = asyncio.Event()
        self._revoked = False
        self._exited: Exit | None = None
        self._results: dict[tuple[str, int], asyncio.Future[Mapping[str, Any]]] = {}
        self._owed: set[tuple[str, int]] = set()
        """Tasks that the driver's agent may believe to be here, and whose end it was not told."""
        self._running: set[asyncio.Task[None]] = set()
        self.idle_since: float | None = time.time()

    async def run(self) -> None:
        """Take and run tasks until the process ends or the lease is revoked.

        When this returns the driver's agent has been told the end of each task that it knows to be here.
        """
        self._idle.set()
        pump = asyncio.create_task(self._pump_output())
        self._spawn(self._consume())
        self._exited = await self._process.wait()
        self._revoked = True
        for result in self._results.values():
            if not result.done():
                result.set_result(_death(self._exited, self._grant))
        self._ready.set()  # A process that died as it started is never ready; its task must not wait for that.
        await self._pause()
        while self._running:
            await asyncio.wait(self._running)
        if self._owed:
            grant, cause = self._grant, f"its executor ended with {_how(self._exited)}"
            await self._tell_driver(ExecutorLost(grant.job_id, grant.attempt, grant.lease_id, cause))
        await pump

    def ready(self) -> None:
        """Note that the process is up and listens."""
        self._ready.set()

    async def on_result(self, fields: Mapping[str, Any]) -> None:
        """Take a task's result from the process; one that was not asked for is ignored."""
        task_id, attempt = fields.get("task_id"), fields.get("attempt")
        if not isinstance(task_id, str) or not isinstance(attempt, int):
            return
        result = self._results.get((task_id, attempt))
        if result is not None and not result.done():
            result.set_result(fields)

    async def revoke(self, *, now: bool) -> None:
        """Give the lease back: after the task in hand, or at once. May come again."""
        self._revoked = True
        if not now:
            await self._pause()
            await self._idle.wait()
            try:
                if self._ready.is_set():
                    await self._process.push("executor_end")
                    await asyncio.wait_for(self._process.wait(), END_S)
            except (ConnectionError, TimeoutError):
                _log.info("executor_did_not_end", lease=self._grant.lease_id)
        self._process.kill()

    async def _consume(self) -> None:
        async with self._turning:
            while not self._revoked and self._subscription is None:
                try:
                    self._subscription = await self._bus.consume(self._queue, self._take, prefetch=1)
                except BusClosedError:
                    return
                except BusError as error:
                    # Its queue was deleted between two steps; if the driver is over, the lease soon is, too.
                    _log.warning("cannot_take_tasks", lease=self._grant.lease_id, reason=str(error))
                    await asyncio.sleep(AGAIN_S)

    async def _pause(self) -> None:
        async with self._turning:
            subscription, self._subscription = self._subscription, None
            if subscription is not None:
                await subscription.cancel()

    async def _pause_while_busy(self) -> None:
        await self._pause()
        if self._idle.is_set():  # The task in hand ended meanwhile, and found the subscription still there.
            await self._consume()

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
            self._spawn(self._pause_while_busy())
            return
        batch = delivery.message
        if self._revoked or not isinstance(batch, TaskBatch):
            await delivery.requeue()
            return
        owned = tuple((task.task_id, task.attempt) for task in batch.tasks)
        self._owed.update(owned)
        grant = self._grant
        taken = TasksTaken(grant.job_id, grant.attempt, grant.lease_id, self._worker_id, owned)
        await self._tell_driver(taken)
        await delivery.ack()
        self._idle.clear()
        self.idle_since = None
        self._spawn(self._run_batch(batch))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _run_batch(self, batch: TaskBatch) -> None:
        try:
            await self._ready.wait()
            for task in batch.tasks:
                await self._answer(await self._run_task(task))
        except Exception:  # noqa: BLE001 - Whatever it was, nobody else would hear of these tasks.
            # Such as a value that storage did not take: with the end of this lease they are sent again.
            _log.exception("tasks_failed", job=self._grant.job_id, lease=self._grant.lease_id)
            self._revoked = True
            self._process.kill()
        finally:
            self.idle_since = time.time()
            self._idle.set()
        await self._consume()

    async def _answer(self, reply: TaskReply) -> None:
        grant = self._grant
        await self._tell_driver(TaskReplies(grant.job_id, grant.attempt, grant.lease_id, (reply,)))
        self._owed.discard((reply.task_id, reply.attempt))

    async def _run_task(self, task: TaskCall) -> TaskReply:
        result: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        self._results[task.task_id, task.attempt] = result
        before, started = self._process.usage(), time.monotonic()
        try:
            if self._exited is not None:
                raise ConnectionResetError("the process has ended")
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
            self._process.kill()  # Without its channel nothing would come of it, should it still live.
            fields = _death(await self._process.wait(), self._grant)
        finally:
            del self._results[task.task_id, task.attempt]
        after = self._process.usage()
        value, digest = fields.get("value"), fields.get("value_digest")
        if isinstance(value, bytes) and len(value) > INLINE_LIMIT_BYTES:
            digest = await self._blobs.put(value)
            value = None
        return TaskReply(
            task_id=task.task_id,
            attempt=task.attempt,
            outcome=_outcome(fields),
            value=value if isinstance(value, bytes) else None,
            value_digest=digest if isinstance(digest, str) and is_digest(digest) else "",
            text=str(fields.get("text", ""))[-TEXT_CHARACTERS:],
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
            await self._tell_driver(ExecutorOutput(grant.job_id, grant.attempt, grant.lease_id, sequence, chunk))

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
    return {"outcome": TaskOutcome.EXECUTOR_DIED, "text": f"its executor ended with {_how(exited)}"}


def _how(exited: Exit) -> str:
    return f"signal {exited.signal}" if exited.signal else f"exit code {exited.exit_code}"
