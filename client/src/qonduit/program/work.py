"""The tasks that an executor's process was given and has not begun, and the one that it runs."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from qonduit.program.channel import GONE
from qonduit.program.task_errors import TaskCanceledError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import FrameType

    from qonduit.program.channel import AgentChannel

CANCEL_SIGNAL = signal.SIGUSR2
"""Wakes the main thread out of a blocking call; a task that uses the signal itself can only be killed."""


class Given(NamedTuple):
    """One task as the agent gave it."""

    task_id: str
    attempt: int
    number: int
    function_id: str
    call: bytes | None
    call_digest: str
    inputs: list[Any]


class Code(NamedTuple):
    """A function as the agent gave it."""

    name: str
    code: bytes | None
    code_digest: str


class Work:
    """What the agent says to an executor: the main thread takes tasks from here, the channel's thread adds them.

    So the agent can have those back that have not begun, also while a task runs.
    """

    def __init__(self, channel: AgentChannel) -> None:
        self.functions: dict[str, Code] = {}
        self._channel = channel
        self._tasks: deque[Given] = deque()
        self._there = threading.Semaphore(0)
        self._taking = threading.Lock()
        self._ended = False
        self._running: Given | None = None
        self._canceled: set[tuple[str, int]] = set()
        signal.signal(CANCEL_SIGNAL, self._interrupted)
        channel.on_push("tasks_run", self._on_run)
        channel.on_push("tasks_recall", self._on_recall)
        channel.on_push("tasks_cancel", self._on_cancel)
        for end in ("executor_end", GONE):
            channel.on_push(end, self._on_end)

    def next(self) -> Given | None:
        """Wait for the next task and return it; None when the agent wants no more."""
        while True:
            self._there.acquire()
            with self._taking:
                if self._ended:
                    return None
                if self._tasks:
                    return self._tasks.popleft()
            # It was given back meanwhile.

    @contextlib.contextmanager
    def running(self, task: Given) -> Iterator[None]:
        """Have a task be the one that a cancel interrupts."""
        self._running = task
        try:
            if (task.task_id, task.attempt) in self._canceled:
                raise TaskCanceledError("the task was canceled")
            yield
        finally:
            self._running = None

    def is_canceled(self, task: Given) -> bool:
        """Tell whether nobody wants a task any more."""
        return (task.task_id, task.attempt) in self._canceled

    def _on_run(self, fields: Mapping[str, Any]) -> None:
        for function_id, name, code, code_digest in fields["functions"]:
            self.functions[function_id] = Code(name, code, code_digest)
        tasks = [Given(*row) for row in fields["tasks"]]
        with self._taking:
            self._tasks.extend(tasks)
        self._there.release(len(tasks))

    def _on_recall(self, _: Mapping[str, Any]) -> None:
        with self._taking:
            unbegun = list(self._tasks)
            self._tasks.clear()
        for task in unbegun:
            self._answer(task, "RETURNED")

    def _on_cancel(self, fields: Mapping[str, Any]) -> None:
        wanted = set(fields["tasks"])
        with self._taking:
            unbegun = [task for task in self._tasks if task.task_id in wanted]
            self._tasks = deque(task for task in self._tasks if task.task_id not in wanted)
        for task in unbegun:
            self._answer(task, "CANCELED")
        running = self._running
        if running is not None and running.task_id in wanted:
            self._canceled.add((running.task_id, running.attempt))
            signal.pthread_kill(threading.main_thread().ident or 0, CANCEL_SIGNAL)

    def _answer(self, task: Given, outcome: str) -> None:
        self._channel.notify("task_result", result=[task.task_id, task.attempt, outcome, None, "", "", 0.0, 0.0, 0.0])

    def _on_end(self, _: Mapping[str, Any]) -> None:
        self._ended = True
        self._there.release()

    def _interrupted(self, _number: int, _frame: FrameType | None) -> None:
        """Run in the main thread, between two of its steps: only the task that was meant is interrupted."""
        running = self._running
        if running is not None and self.is_canceled(running):
            raise TaskCanceledError("the task was canceled")
