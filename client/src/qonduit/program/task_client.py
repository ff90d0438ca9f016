"""This process's tasks: submitted without waiting, completed by what the agent says."""

from __future__ import annotations

import functools
import itertools
import os
import secrets
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from qonduit.program.channel import GONE, AgentChannel, AgentGoneError, agent
from qonduit.program.references import Outcome
from qonduit.program.sending import Sent, input_rows
from qonduit.program.task_errors import TaskError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from qonduit.program.references import TaskReference

LEND_CPU_AFTER_S = 0.02
"""A program that waits longer than this for tasks lends its cpu to others; a shorter wait isn't worth a message."""
_FRAME_BYTES = 1024**2
"""Of calls and inputs in one message to the agent, about."""


class TaskClient:
    """This process's unfinished tasks: the agent's pushes complete them, waiting threads are told."""

    def __init__(self, channel: AgentChannel) -> None:
        self._channel = channel
        self._changed = threading.Condition()
        self._pending: dict[str, TaskReference] = {}
        self._listeners: dict[str, list[Callable[[], None]]] = {}
        self._awaited: list[_Arrivals] = []
        """Of the threads that wait now."""
        self._defined: set[str] = set()
        self._waiters = 0
        self._telling = threading.Lock()
        self._gone = False
        self._prefix = secrets.token_hex(8)
        self._numbers = itertools.count()
        channel.on_push("tasks_done", self._on_done)
        channel.on_push("tasks_unknown", self._on_unknown)
        channel.on_push(GONE, self._on_gone)

    def new_id(self) -> str:
        """Return an id for a task; no other process makes the same."""
        return f"{self._prefix}-{next(self._numbers)}"

    def define(self, function_id: str, definition: Callable[[], Mapping[str, Any]]) -> None:
        """Have the agent know a function; what it is made of is asked for once."""
        if function_id not in self._defined:
            self._channel.notify("task_function", function_id=function_id, **definition())
            self._defined.add(function_id)

    def submit(self, function_id: str, calls: Iterable[tuple[TaskReference, Sent]]) -> None:
        """Submit calls of a function that was defined; returns once they are on their way, in this order."""
        listeners: list[Callable[[], None]] = []
        rows: list[list[Any]] = []
        size_bytes = 0
        for reference, sent in calls:
            failed = _failed(sent)
            with self._changed:
                if failed is not None:
                    self._pending.pop(reference.task_id, None)  # It is there if it was submitted before.
                    listeners += self._complete(reference, failed)
                    self._changed.notify_all()
                    continue
                reference.unsent = (function_id, sent) if sent.inputs else None
                self._pending[reference.task_id] = reference
            inputs = input_rows(self._channel, sent.inputs)
            rows.append([reference.task_id, sent.call, sent.digest, inputs, sent.apart])
            size_bytes += len(sent.call or b"") + sum(len(value or b"") for _, value, _ in inputs)
            if size_bytes > _FRAME_BYTES:
                self._send(function_id, rows)
                rows, size_bytes = [], 0
        self._send(function_id, rows)
        for tell in listeners:
            tell()

    def _send(self, function_id: str, rows: list[list[Any]]) -> None:
        if not rows:
            return
        try:
            self._channel.notify("tasks_submit", function=function_id, tasks=rows)
        except BaseException:
            with self._changed:
                for row in rows:
                    self._pending.pop(row[0], None)
            raise

    def cancel(self, references: Iterable[TaskReference]) -> None:
        """Ask for the end of tasks; those that have ended stay as they are."""
        wanted = [reference.task_id for reference in references if reference.outcome is None]
        if wanted:
            self._channel.notify("tasks_cancel", tasks=wanted)

    # --- What the agent says -------------------------------------------------------------------

    def _on_gone(self, _: Mapping[str, Any]) -> None:
        with self._changed:
            self._gone = True
            self._changed.notify_all()
            listeners = [one for several in self._listeners.values() for one in several]
            self._listeners.clear()
        for tell in listeners:
            tell()

    def _on_done(self, fields: Mapping[str, Any]) -> None:
        listeners: list[Callable[[], None]] = []
        with self._changed:
            for task_id, kind, value, digest, text in fields["tasks"]:
                reference = self._pending.pop(task_id, None)
                if reference is not None:  # A repeated push finds nothing: each task completes once.
                    listeners += self._complete(reference, Outcome(kind, value, digest, text))
            self._changed.notify_all()
        for tell in listeners:
            tell()

    def _complete(self, reference: TaskReference, outcome: Outcome) -> list[Callable[[], None]]:
        reference.outcome = outcome
        reference.unsent = None
        for arrivals in self._awaited:
            arrivals.came(reference)
        return self._listeners.pop(reference.task_id, []) if self._listeners else []

    def _on_unknown(self, fields: Mapping[str, Any]) -> None:
        """Submit tasks again whose inputs had ended as they came: by now their values were told, on this same way."""
        for task_id in fields["tasks"]:
            with self._changed:
                reference = self._pending.get(task_id)
            if reference is None or reference.unsent is None:
                continue
            function_id, sent = reference.unsent
            try:
                if all(given.outcome is None for given in sent.inputs):
                    raise TaskError("a task among its arguments belongs to another process, or is unknown")  # noqa: TRY301
                self.submit(function_id, [(reference, sent)])
            except Exception as error:  # noqa: BLE001 - This is the thread that reads: who waits for the task must hear it.
                self._on_done({"tasks": [[task_id, "REFUSED", None, "", str(error)]]})

    # --- Waiting -------------------------------------------------------------------------------

    def listen(self, reference: TaskReference, tell: Callable[[], None]) -> None:
        """Have `tell` called, by another thread, when a task has ended or the agent is gone; at once if so already."""
        with self._changed:
            if reference.outcome is None and not self._gone:
                self._listeners.setdefault(reference.task_id, []).append(tell)
                return
        tell()

    def wait(
        self,
        references: Iterable[TaskReference],
        deadline: float | None,
        *,
        enough: int | None = None,
        expire: bool = True,
        look_at: Callable[[TaskReference], None] | None = None,
    ) -> None:
        """Wait until all (or `enough`) have an outcome; TimeoutError past the deadline if `expire`.

        Meanwhile `look_at` gets those that have one, as they come and each once; not the last ones, after which nothing
        is waited for.
        """
        waited_for = list(references)
        with self._changed:
            arrivals = _Arrivals(waited_for, 0 if enough is None else len(waited_for) - enough)
            self._awaited.append(arrivals)
        try:
            if not self._wait_and_lend(arrivals, deadline, look_at):
                self._expire(waited_for, expire=expire)
        finally:
            with self._changed:
                self._awaited.remove(arrivals)

    def _wait_and_lend(
        self, arrivals: _Arrivals, deadline: float | None, look_at: Callable[[TaskReference], None] | None
    ) -> bool:
        if self._wait(arrivals, _earlier(deadline, time.monotonic() + LEND_CPU_AFTER_S), look_at):
            return True
        with self._changed:
            for reference in arrivals.missing:
                if reference.task_id not in self._pending:
                    raise TaskError(f"{reference!r} belongs to another process: get() it where it was made")
        if deadline is not None and time.monotonic() >= deadline:
            return False
        self.lend_cpu(lending=True)
        try:
            done = self._wait(arrivals, deadline, look_at)
        finally:
            self.lend_cpu(lending=False)
        if self._gone and not done:
            raise AgentGoneError("the agent closed the channel: the values of tasks can no longer arrive")
        return done

    def _wait(
        self, arrivals: _Arrivals, deadline: float | None, look_at: Callable[[TaskReference], None] | None
    ) -> bool:
        """Wait until all have come (True), the deadline has, or the agent is gone."""
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: arrivals.complete() or self._gone or (look_at is not None and bool(arrivals.fresh)),
                    None if deadline is None else max(0.0, deadline - time.monotonic()),
                )
                done = arrivals.complete()
                fresh, arrivals.fresh = arrivals.fresh, []
                if done or look_at is None or not fresh:
                    return done
            for reference in fresh:
                look_at(reference)
            if deadline is not None and time.monotonic() >= deadline:
                return arrivals.complete()

    @staticmethod
    def _expire(waited_for: list[TaskReference], *, expire: bool) -> None:
        late = sum(reference.outcome is None for reference in waited_for)
        if late and expire:
            raise TimeoutError(f"{late} of {len(waited_for)} tasks had no value in time; they run on")

    def lend_cpu(self, *, lending: bool) -> None:
        """Tell the agent when the first thread starts to wait, and when the last one goes on."""
        with self._telling:  # Held until it is on its way: what two threads tell must arrive in the order it happened.
            before = self._waiters
            self._waiters += 1 if lending else -1
            if not self._gone and ((before == 0) if lending else (self._waiters == 0)):
                self._channel.notify("tasks_waiting", waiting=lending)


def _failed(sent: Sent) -> Outcome | None:
    """Return how a task among a call's inputs has failed: the call ends in the same way."""
    outcomes = (given.outcome for given in sent.inputs)
    return next((outcome for outcome in outcomes if outcome is not None and outcome.kind != "OK"), None)


class _Arrivals:
    """Which of the references that somebody waits for have an outcome; some may be among them more than once."""

    def __init__(self, references: Sequence[TaskReference], spared: int) -> None:
        self.missing = Counter(references)
        self.fresh: list[TaskReference] = []
        """No longer missing, and not yet looked at, in the order in which they came."""
        self._left = len(references)
        self._spared = spared
        for reference in references:
            if reference.outcome is not None:
                self.came(reference)

    def came(self, reference: TaskReference) -> None:
        """Note that a reference has an outcome; one that is not missing changes nothing."""
        times = self.missing.pop(reference, 0)
        if times:
            self._left -= times
            self.fresh.append(reference)

    def complete(self) -> bool:
        """Tell whether no more than the spared ones are missing."""
        return self._left <= self._spared


def _earlier(deadline: float | None, other: float) -> float:
    return other if deadline is None else min(deadline, other)


@functools.cache
def task_client() -> TaskClient:
    """Return this process's tasks; raises NotInProgramError outside a program."""
    return TaskClient(agent())


# A forked child has a connection of its own, on which the parent's tasks don't arrive; its locks may be held for ever.
os.register_at_fork(after_in_child=task_client.cache_clear)
