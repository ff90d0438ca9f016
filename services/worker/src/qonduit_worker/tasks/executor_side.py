"""The executor's side of the task layer: it takes tasks from the job's queue and runs them one after another."""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from qonduit_service_kit.bus import BusClosedError, BusError, Delivery, Subscription, tasks_queue
from qonduit_service_kit.logs import get_logger
from qonduit_service_kit.messages import (
    ExecutorGranted,
    ExecutorLost,
    TaskBatch,
    TasksCanceled,
    TasksTaken,
    task_queue,
)

from qonduit_worker.tasks.in_hand import FIELDS_OF_A_RESULT, InHand, death_of, ended, how_it_ended, returned
from qonduit_worker.tasks.output import carry
from qonduit_worker.tasks.replies import ReplySender

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from qonduit_worker.sandbox import Exit
    from qonduit_worker.tasks.context import Surroundings
    from qonduit_worker.tasks.executor_process import ExecutorProcess

_log = get_logger(__name__)

HOLD_S = 0.2
"""A delivery waits this long for tasks in hand, then goes back; behind shorter ones the process gets it at once."""
RECALL_S = 0.1
"""Tasks that lie this long behind one that takes longer than expected go back, too."""
READY_S = 120.0
"""A process that has not said by then that it is up never will: its job's tasks would wait for it for ever."""
END_S = 5.0
"""How long a process that was told to end may take: a thread that a task left behind could keep it for ever."""
CANCEL_S = 2.0
"""How long a canceled task may take to end by itself."""
AGAIN_S = 1.0


class ExecutorDesk:
    """Serves one executor's lease from its grant to its end."""

    def __init__(self, grant: ExecutorGranted, surroundings: Surroundings, process: ExecutorProcess) -> None:
        self._grant = grant
        self._worker_id = surroundings.worker_id
        self._bus = surroundings.bus
        self._post = surroundings.post
        self._process = process
        self._queue = tasks_queue(task_queue(grant.job_id, grant.attempt, grant.shape))
        self._subscription: Subscription | None = None
        self._hand: OrderedDict[str, InHand] = OrderedDict()
        """What the process has, in the order in which it runs it; the first is running."""
        self._one_batch = asyncio.Event()
        """Set unless the process has a second batch, which waits behind the first."""
        self._one_batch.set()
        self._known_functions: set[str] = set()
        self._idle = asyncio.Event()
        self._answers = False
        """Whether `run` was begun, which tells the end of each task that is taken."""
        self._revoked = False
        self._exited: Exit | None = None
        self._overtime = False
        self._ended_for: InHand | None = None
        """The task because of which the process was killed here."""
        self._running: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._begun_at = 0.0
        """When the batch in hand was given to the process, by the clock of the event loop."""
        self._progress_at = 0.0
        """When the first task in hand began, by the clock of the event loop."""
        self._patience_s = RECALL_S
        self._replies = ReplySender(grant, surroundings, process.usage, failed=process.kill)
        self.idle_since: float | None = time.time()
        self.lends_cpu = False

    # --- Its life ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Take and run tasks until the process ends or the lease is revoked.

        When this returns the driver's agent has been told the end of each task that it knows to be here.
        """
        unready = asyncio.get_running_loop().call_later(READY_S, self._kill_unready)
        self._answers = True
        pump = asyncio.create_task(carry(self._process.output, self._grant, self._tell_driver))
        self._spawn(self._consume())
        self._exited = await self._process.wait()
        unready.cancel()
        self._revoked = True
        self._cancel_timer()
        self._settle_hand(self._exited)
        self._idle.set()  # Whoever waits for the tasks in hand need not wait any more.
        if self._subscription is not None:
            await self._subscription.cancel()
        while self._running:
            await asyncio.wait(self._running)
        if not await self._replies.close():
            grant, cause = self._grant, f"its executor ended with {how_it_ended(self._exited)}"
            await self._tell_driver(ExecutorLost(grant.job_id, grant.attempt, grant.lease_id, cause))
        await pump

    def _settle_hand(self, exited: Exit) -> None:
        """Answer for the tasks in hand.

        The first had to do with the death of their process, or the one for which we ended it, which may have come to
        its end all the same; the others are not to blame.
        """
        hand, self._hand = list(self._hand.values()), OrderedDict()
        self._one_batch.set()
        blamed = self._ended_for or next(iter(hand), None)
        for task in hand:
            reply = death_of(task, exited, self._grant, overtime=self._overtime) if task is blamed else returned(task)
            self._replies.add(reply, last=task is hand[-1])

    def ready(self) -> None:
        """Note that the process is up and listens."""
        self._idle.set()
        if self._subscription is not None and not self._revoked:
            self._spawn(self._subscription.resume())  # A batch that came long before had it pause.

    def _kill_unready(self) -> None:
        if not self._process_is_up:
            _log.error("executor_not_ready", lease=self._grant.lease_id, job=self._grant.job_id, seconds=READY_S)
            self._process.kill()

    async def revoke(self, *, now: bool) -> None:
        """Give the lease back: after the task in hand, or at once. May come again."""
        self._revoked = True
        if not now:
            if self._subscription is not None:
                await self._subscription.pause()
            self._recall()
            try:
                if self._process_is_up:
                    await self._idle.wait()
                    self._process.push("executor_end")
                    await asyncio.wait_for(self._process.wait(), END_S)
            except (ConnectionError, TimeoutError):
                _log.info("executor_did_not_end", lease=self._grant.lease_id)
        self._process.kill()

    @property
    def _process_is_up(self) -> bool:
        return bool(self._hand) or self._idle.is_set()

    # --- Taking tasks --------------------------------------------------------------------------

    async def _consume(self) -> None:
        while not self._revoked and self._subscription is None:
            try:
                self._subscription = await self._bus.consume(self._queue, self._take, prefetch=1)
            except BusClosedError:
                return
            except BusError as error:
                # Its queue was deleted between two steps; if the driver is over, the lease soon is, too.
                _log.warning("cannot_take_tasks", lease=self._grant.lease_id, reason=str(error))
                await asyncio.sleep(AGAIN_S)
        if self._revoked and self._subscription is not None:
            await self._subscription.cancel()

    async def _take(self, delivery: Delivery) -> None:
        """Own a batch and run it, say so to the driver's agent, then acknowledge.

        No delivery is held while user code runs for long: RabbitMQ would close the channel after 30 minutes,
        and an idle executor elsewhere could have it. A crash before the acknowledgement brings the batch to
        another executor; a crash after it is told to the driver's agent as a lost lease. What waits in the process
        behind other tasks is acknowledged when it begins or went back: until then no third batch comes.
        """
        batch = delivery.message
        if not (isinstance(batch, TaskBatch) and await self._can_take()) or self._revoked:
            await delivery.requeue()
            return
        await self.give(batch)
        await self._one_batch.wait()
        await delivery.ack()

    @property
    def idle(self) -> bool:
        """Whether it has nothing to do and may be given something."""
        return self._answers and self._idle.is_set() and not self._revoked

    async def give(self, batch: TaskBatch) -> None:
        """Own and run a batch of a driver on this worker, which found it idle.

        If this agent dies, so does the driver; what else may happen to the batch is told as if it had been taken.
        """
        self._idle.clear()
        self.idle_since = None
        if batch.expected_s >= HOLD_S:
            self._spawn(self._pause())
        owned = tuple((task.task_id, task.attempt) for task in batch.tasks)
        grant = self._grant
        self._replies.owe(owned)
        self._run(batch)
        taken = TasksTaken(grant.job_id, grant.attempt, grant.lease_id, self._worker_id, batch.batch, owned)
        await self._tell_driver(taken)

    async def _can_take(self) -> bool:
        if not self._idle.is_set() and not self._is_soon_over():
            try:
                async with asyncio.timeout(HOLD_S):
                    while not (self._idle.is_set() or self._is_soon_over()):  # It may be given another meanwhile.
                        await self._idle.wait()
            except TimeoutError:
                self._spawn(self._pause())
                return False
        return True

    def _is_soon_over(self) -> bool:
        """Tell whether the tasks in hand are likely to end before others behind them would have to go back."""
        first = next(iter(self._hand.values()), None)
        return first is not None and 0 < first.expected_s < HOLD_S and not self.lends_cpu

    async def _pause(self) -> None:
        """Take nothing until the tasks in hand have ended."""
        if self._subscription is not None and not self._idle.is_set():
            await self._subscription.pause()
            if self._idle.is_set():  # They ended meanwhile, and found nothing paused.
                await self._subscription.resume()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    # --- Running them --------------------------------------------------------------------------

    def _run(self, batch: TaskBatch) -> None:
        functions = []
        for function in batch.functions:
            if function.function_id not in self._known_functions:
                self._known_functions.add(function.function_id)
                functions.append([function.function_id, function.name, function.code, function.code_digest])
        rows = []
        begins = not self._hand
        for call in batch.tasks:
            known = self._hand.get(call.task_id)
            if known is not None and known.attempt == call.attempt:
                continue  # Its delivery came again, over a new connection to RabbitMQ.
            task = InHand(
                call.task_id, call.attempt, call.number, batch.functions[call.function], batch.batch, batch.expected_s
            )
            self._hand[call.task_id] = task
            inputs = [[given.value, given.value_digest] for given in call.inputs]
            function_id = task.function.function_id
            rows.append([call.task_id, call.attempt, call.number, function_id, call.call, call.call_digest, inputs])
        if not rows:
            return
        try:
            if self._exited is not None:
                raise ConnectionResetError("the process has ended")
            self._process.push("tasks_run", functions=functions, tasks=rows)
        except ConnectionError:
            self._process.kill()  # Without its channel nothing would come of it, should it still live.
            if self._exited is not None:
                self._settle_hand(self._exited)
            return
        if begins:
            self._begin_batch(batch.expected_s)
        else:
            self._look_for_second_batch()
            self._watch()

    def _begin_batch(self, expected_s: float) -> None:
        self._begun_at = self._progress_at = asyncio.get_running_loop().time()
        self._patience_s = max(RECALL_S, 3 * expected_s)
        self._watch()

    def _look_for_second_batch(self) -> None:
        hand = self._hand.values()
        if len(hand) > 1 and next(iter(hand)).batch != next(reversed(hand)).batch:
            self._one_batch.clear()
        else:
            self._one_batch.set()

    def _watch(self) -> None:
        """Look after the task that runs now: its timeout, and those that wait behind it.

        One timer looks from time to time; thousands of tasks a second must not set a timer each.
        """
        self._cancel_timer()
        first = next(iter(self._hand.values()), None)
        if first is None:
            return
        loop = asyncio.get_running_loop()
        runs_s = loop.time() - self._progress_at
        left_s = []
        if (timeout_s := first.function.timeout_s) > 0:
            if runs_s >= timeout_s:
                self._overtime = True
                self._ended_for = first
                self._process.kill()
                return
            left_s.append(timeout_s - runs_s)
        if len(self._hand) > 1:
            if runs_s >= self._patience_s:
                self._recall()
                if not self._one_batch.is_set():
                    self._spawn(self._pause())  # What went back must not come here again.
            left_s.append(max(self._patience_s - runs_s, RECALL_S))
        elif not left_s:
            return
        # One that begins after this look may have a shorter time.
        shortest_s = min((task.function.timeout_s or math.inf for task in self._hand.values()), default=math.inf)
        self._timer = loop.call_later(min(*left_s, shortest_s), self._watch)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _recall(self) -> None:
        """Ask for the tasks back that the process has not begun: idle executors should have them."""
        if len(self._hand) > 1:
            self._push_quietly("tasks_recall")

    def _push_quietly(self, name: str, **fields: Any) -> None:
        try:
            self._process.push(name, **fields)
        except ConnectionError:
            self._process.kill()

    def on_result(self, fields: Mapping[str, Any]) -> None:
        """Take a task's result from the process (untrusted); one that was not asked for is ignored."""
        row = fields.get("result")
        if not isinstance(row, list) or len(row) != FIELDS_OF_A_RESULT:
            return
        task_id, attempt = row[:2]
        task = self._hand.get(task_id) if isinstance(task_id, str) else None
        if task is None or task.attempt != attempt:
            return
        now = asyncio.get_running_loop().time()
        was_first = next(iter(self._hand)) == task_id
        if was_first:
            self._progress_at = now
            self._patience_s = RECALL_S
        del self._hand[task_id]
        reply = ended(task, row, given_s=now - self._begun_at, peak_mem_bytes=self._replies.peak_mem_bytes)
        self._replies.add(reply, last=not self._hand)
        self._look_for_second_batch()
        following = next(iter(self._hand.values()), None)
        if was_first and following is not None and following.batch != task.batch:
            self._begin_batch(following.expected_s)
        if not self._hand:
            self._cancel_timer()
            self.idle_since = time.time()
            self._idle.set()
            if self._subscription is not None and not self._revoked:
                self._spawn(self._subscription.resume())

    def canceled(self, message: TasksCanceled) -> None:
        """End tasks that nobody wants: what has not begun never does, what runs is interrupted, at last killed."""
        wanted = [task_id for task_id in message.tasks if task_id in self._hand]
        if not wanted:
            return
        self._push_quietly("tasks_cancel", tasks=wanted)
        # Any of them may have begun by now: the end of the one before is still on its way here.
        asyncio.get_running_loop().call_later(CANCEL_S, self._kill_if_running, [self._hand[each] for each in wanted])

    def _kill_if_running(self, unwanted: list[InHand]) -> None:
        first = next(iter(self._hand.values()), None)
        if first is not None and first in unwanted:
            self._ended_for = first
            self._process.kill()

    # --- Tasks of tasks ------------------------------------------------------------------------

    @property
    def running_task_id(self) -> str:
        """The task that runs now; '' when none does."""
        return next(iter(self._hand), "")

    def waiting(self, waiting: bool) -> None:  # noqa: FBT001 - It is the fact that is told.
        """Note that the task in hand blocks in get(): those behind it may be what it waits for, so they go back."""
        self.lends_cpu = waiting
        if waiting:
            self._recall()

    async def _tell_driver(self, message: object) -> None:
        await self._post(self._grant.driver_worker_id, message)
