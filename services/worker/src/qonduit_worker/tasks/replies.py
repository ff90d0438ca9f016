"""The ends of tasks, on their way from an executor's agent to the driver's agent."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from qonduit_service_kit.logs import get_logger
from qonduit_service_kit.messages import ExecutorGranted, TaskOutcome, TaskReplies, TaskReply

from qonduit_worker.tasks.results import in_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from qonduit_worker.sandbox import Usage
    from qonduit_worker.tasks.context import Surroundings

_log = get_logger(__name__)

READ_S = 0.05
"""The kernel's counters are read at least this often while tasks end, and at the end of each batch."""
WORTH_READING_S = 0.001
"""At the end of a batch that ran for less they are not: reading them would take a tenth of that."""


class ReplySender:
    """Sends replies in the order in which they came: many in a message when they come faster than messages go.

    A task is owed until the driver's agent was told its end; whoever still owes when the lease ends says that the
    lease was lost, and the tasks are sent again.
    """

    def __init__(
        self,
        grant: ExecutorGranted,
        surroundings: Surroundings,
        usage: Callable[[], Usage],
        *,
        failed: Callable[[], None],
    ) -> None:
        self._grant = grant
        self._post = surroundings.post
        self._usage = usage
        self._owed: set[tuple[str, int]] = set()
        self._ended: list[TaskReply] = []
        self._batch_ended = False
        self._read_at = time.monotonic()
        self._unread_s = 0.0
        self._billed_s = usage().cpu_seconds
        self.peak_mem_bytes = 0
        """The most memory that the process held, as it was read last."""
        self._sending: asyncio.Task[None] | None = None
        self._failed = failed
        """Called when replies cannot be sent: the lease must end, so that its tasks are sent again."""

    def owe(self, tasks: Iterable[tuple[str, int]]) -> None:
        """Note that the driver's agent may believe these tasks to be here."""
        self._owed.update(tasks)

    def add(self, reply: TaskReply, *, last: bool) -> None:
        """Send a reply soon; `last` tells that no other task is in hand."""
        self._ended.append(reply)
        self._batch_ended = self._batch_ended or last
        if self._sending is None:
            self._sending = asyncio.create_task(self._send_all())

    async def close(self) -> bool:
        """Wait until all was sent; returns whether every task that was owed has been answered for."""
        if self._sending is not None:
            await asyncio.wait([self._sending])
        return not self._owed

    async def _send_all(self) -> None:
        try:
            while self._ended:
                replies, self._ended = self._ended, []
                self._bill(replies)
                grant = self._grant
                for part in in_parts(replies):
                    message = TaskReplies(grant.job_id, grant.attempt, grant.lease_id, tuple(part))
                    await self._post(grant.driver_worker_id, message)
                    self._owed.difference_update((reply.task_id, reply.attempt) for reply in part)
        except Exception:  # noqa: BLE001 - Whatever it was, the end of the lease tells that its tasks are lost.
            _log.exception("replies_not_sent", job=self._grant.job_id, lease=self._grant.lease_id)
            self._failed()
        finally:
            self._sending = None

    def _bill(self, replies: list[TaskReply]) -> None:
        """Make the sum of what was billed agree with what the kernel has counted.

        A reply comes with the CPU time that its process told, which may leave out processes that the task started. The
        kernel is asked once a batch, if that ran for a while; the last reply then carries the difference, as far as it
        can, and the next ones the rest. Tasks that went back never ran: what the one before them uses is not theirs.
        """
        self._billed_s += sum(reply.cpu_s for reply in replies)
        self._unread_s += sum(reply.wall_s for reply in replies)
        now = time.monotonic()
        if now - self._read_at < READ_S and not (self._batch_ended and self._unread_s > WORTH_READING_S):
            return
        ran = (index for index in reversed(range(len(replies))) if replies[index].outcome is not TaskOutcome.RETURNED)
        last = next(ran, None)
        if last is None:
            return
        self._unread_s = 0.0
        self._batch_ended, self._read_at = False, now
        used = self._usage()
        self.peak_mem_bytes = used.peak_mem_bytes
        missing_s = used.cpu_seconds - self._billed_s
        told_s = replies[last].cpu_s
        cpu_s = max(0.0, told_s + missing_s)
        self._billed_s += cpu_s - told_s
        replies[last] = replace(replies[last], cpu_s=cpu_s, peak_mem_bytes=used.peak_mem_bytes)
