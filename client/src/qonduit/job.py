"""Jobs: runs of functions."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final

from qonduit import exceptions as errors
from qonduit.functions import full_name
from qonduit.job_history import Timeline, Usage, format_table, html_table
from qonduit.job_tasks import TaskCounts, Tasks
from qonduit.task_log import TaskLines

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator
    from datetime import datetime

    from qonduit.client import ServerlessClient
    from qonduit.job_calls import JobCalls
    from qonduit.job_tasks import TaskInfo

TERMINAL_STATUSES: Final = frozenset({"DONE", "ERROR", "CANCELED"})

_FAILURES: Final[dict[str, type[errors.JobFailedError]]] = {
    "PROGRAM_ERROR": errors.ProgramError,
    "OUT_OF_MEMORY": errors.OutOfMemoryError,
    "TIMEOUT": errors.JobTimeoutError,
    "KILLED": errors.JobKilledError,
    "UNSCHEDULABLE": errors.UnschedulableError,
    "WORKER_LOST": errors.WorkerLostError,
    "QPU_ERROR": errors.QpuError,
    "DEPENDENCY_ERROR": errors.DependencyError,
    "RESULT_NOT_SERIALIZABLE": errors.ResultNotSerializableError,
}


@dataclass(frozen=True, slots=True)
class JobSnapshot:
    """A job at one moment."""

    job_id: str
    function_title: str
    function_version: str
    owner: str
    status: str
    """"QUEUED", "INITIALIZING", "RUNNING", "RUNNING: MAPPING", ..., "DONE", "ERROR", "CANCELED"."""
    reason: str
    """Why it ended other than with DONE: "PROGRAM_ERROR", "OUT_OF_MEMORY", ...; empty if it didn't."""
    error_text: str
    attempt: int
    revision: int
    """Rises with every change."""
    waiting_for: str
    """Why it waits, while it is queued."""
    result_bytes: int
    created: datetime | None
    started: datetime | None
    ended: datetime | None
    exit_code: int | None
    signal: int | None
    task_counts: TaskCounts = field(default_factory=TaskCounts)
    """The tasks of its present attempt."""
    provider: str = ""
    """The provider whose function it runs; empty for the user's own."""
    trial: bool = False
    """Whether its user may only try the function."""

    @property
    def function(self) -> str:
        """What names its function: the title, or "provider/title"."""
        return full_name(self.function_title, self.provider)

    @property
    def over(self) -> bool:
        """Whether nothing follows."""
        return self.status in TERMINAL_STATUSES


class Job:
    """A run of a function.

    Its constants are the stages for `update_status` in a program: `update_status(Job.MAPPING)`.
    In a notebook, `await job` waits for the result without blocking.
    """

    MAPPING: ClassVar[str] = "MAPPING"
    OPTIMIZING_HARDWARE: ClassVar[str] = "OPTIMIZING_HARDWARE"
    WAITING_QPU: ClassVar[str] = "WAITING_QPU"
    EXECUTING_QPU: ClassVar[str] = "EXECUTING_QPU"
    POST_PROCESSING: ClassVar[str] = "POST_PROCESSING"

    def __init__(self, job_id: str, client: ServerlessClient, last: JobSnapshot | None = None) -> None:
        self.job_id = job_id
        self._client = client
        self._last = last

    @property
    def _calls(self) -> JobCalls:
        return self._client.job_calls

    def status(self) -> str:
        """Return the status: "QUEUED", "INITIALIZING", "RUNNING", "RUNNING: MAPPING", "DONE", "ERROR", ..."""
        return self.snapshot().status

    def snapshot(self) -> JobSnapshot:
        """Return all that is known about the job now; what is over is not asked for again."""
        if self._last is None or not self._last.over:
            self._last = self._calls.get(self.job_id)
        return self._last

    def in_terminal_state(self) -> bool:
        """Return whether the job is over."""
        return self.snapshot().over

    def watch(self, *, timeout: float | None = None) -> Iterator[JobSnapshot]:
        """Yield the job now and at every change until it is over; told, not polled.

        While tasks go on, it is also yielded with new `task_counts`, a few times a second at most. It goes on
        after a restart of the server.

        Raises:
            ResultTimeoutError: `timeout` seconds have passed.
        """
        for snapshot in self._calls.watch(self.job_id, timeout_s=timeout):
            self._last = snapshot
            yield snapshot

    def follow(self, *, timeout: float | None = None) -> Iterator[str]:
        """Yield the status now and whenever it changes, until the job is over; otherwise like `watch`."""
        before = ""
        for snapshot in self.watch(timeout=timeout):
            if snapshot.status != before:
                before = snapshot.status
                yield before

    def wait(self, *, timeout: float | None = None) -> JobSnapshot:
        """Wait until the job is over, and return how it ended; ResultTimeoutError as in `watch`."""
        if self._last is not None and self._last.over:
            return self._last
        for snapshot in self.watch(timeout=timeout):
            if snapshot.over:
                return snapshot
        return self.snapshot()

    def result(
        self,
        wait: bool = True,  # noqa: FBT001, FBT002 - The name and place that users know.
        cadence: float = 30,
        verbose: bool = False,  # noqa: FBT001, FBT002 - As above.
        maxwait: float = 0,
        *,
        timeout: float | None = None,
    ) -> Any:
        """Return what the program gave to `save_result`, or {} if it saved nothing.

        It returns as soon as the job ends. `cadence` has no meaning, since nothing is polled, but
        `maxwait` rounds of it are taken for a timeout, as code written for other servers expects.

        Args:
            wait: Wait for the job's end; otherwise raise JobNotDoneError if it is not over.
            cadence: See above.
            verbose: Print each change of status.
            maxwait: See above.
            timeout: Seconds to wait; without it, as long as it takes.

        Raises:
            JobFailedError: The job ended with ERROR; the text holds the program's traceback, and the class
                tells out of memory, time limit and so on apart.
            JobCanceledError: The job was canceled.
            ResultTimeoutError: The job was not over in time; it goes on.
            JobNotDoneError: See `wait`.
        """
        if maxwait and timeout is None:
            timeout = maxwait * cadence
        try:
            end = self._end(timeout, verbose=verbose) if wait else self.snapshot()
            self._raise_unless_done(end)
            return self._calls.result(self.job_id) if end.result_bytes else {}
        except KeyboardInterrupt:
            # Where in gRPC it was waiting is of no interest to who stops waiting; the job goes on.
            raise KeyboardInterrupt from None

    def _end(self, timeout: float | None, *, verbose: bool) -> JobSnapshot:
        for status in self.follow(timeout=timeout) if verbose else ():
            sys.stdout.write(f"{self.job_id}: {status}\n")
        return self.wait(timeout=timeout)

    def _raise_unless_done(self, end: JobSnapshot) -> None:
        if not end.over:
            raise errors.JobNotDoneError(f"Job {self.job_id} is {end.status}.", job_id=self.job_id)
        if end.status == "CANCELED":
            raise errors.JobCanceledError(f"Job {self.job_id} was canceled.", job_id=self.job_id)
        if end.status == "ERROR":
            kind = _FAILURES.get(end.reason, errors.JobFailedError)
            text = f"Job {self.job_id} failed ({end.reason or 'no reason given'}).\n{end.error_text}".rstrip()
            raise kind(text, job_id=self.job_id, reason=end.reason)

    def logs(self, *, task: TaskInfo | int | str | None = None, tail: int = 0) -> str:
        """Return what the program and its tasks have printed so far, both streams in one order.

        What a task prints has its number and name before each line: `[task 12 transpile] ...`.

        Args:
            task: Only the lines of this task (or of the one with this number), or of all tasks of this name. A
                job that was tried again has tasks with the same numbers in each attempt.
            tail: Only the last so many lines, of those of the task if one is named; 0 for all.
        """
        if task is None:
            return b"".join(self._calls.log_chunks(self.job_id, follow=False, tail=tail)).decode(errors="replace")
        text = "".join(self.stream_logs(follow=False, task=task))
        return "".join(text.splitlines(keepends=True)[-tail:])

    def stream_logs(
        self, *, follow: bool = True, offset: int = 0, task: TaskInfo | int | str | None = None, tail: int = 0
    ) -> Iterator[str]:
        """Yield the log in pieces as it is written, until the job is over; goes on after a restart.

        Args:
            follow: Go on until the job is over; otherwise end where the log ends now.
            offset: Bytes to leave out at the beginning.
            task: As for `logs`.
            tail: Begin with the last so many lines of the log in place of an offset.
        """
        pieces = self._log_texts(follow=follow, offset=offset, tail=tail)
        if task is None:
            yield from pieces
            return
        lines = TaskLines(task)
        for piece in pieces:
            if text := lines.feed(piece):
                yield text
        if rest := lines.end():
            yield rest

    def _log_texts(self, *, follow: bool, offset: int, tail: int, of_provider: bool = False) -> Iterator[str]:
        import codecs  # noqa: PLC0415 - Only followers need it.

        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        chunks = self._calls.log_chunks(self.job_id, follow=follow, offset=offset, tail=tail, of_provider=of_provider)
        for chunk in chunks:
            if text := decoder.decode(chunk):
                yield text
        if rest := decoder.decode(b"", final=True):
            yield rest

    def provider_logs(self, *, tail: int = 0) -> str:
        """Return what the job has told the provider of its function alone so far, or the last lines of it.

        Raises:
            JobNotFoundError: There is no such job of a function whose provider's log the user may read.
        """
        pieces = self._calls.log_chunks(self.job_id, follow=False, tail=tail, of_provider=True)
        return b"".join(pieces).decode(errors="replace")

    def stream_provider_logs(self, *, follow: bool = True, offset: int = 0, tail: int = 0) -> Iterator[str]:
        """Yield it in pieces as it is written, until the job is over; otherwise as `stream_logs`."""
        return self._log_texts(follow=follow, offset=offset, tail=tail, of_provider=True)

    def tasks(
        self, state: str | Iterable[str] | None = None, name: str | None = None, *, attempt: int | None = None
    ) -> Tasks:
        """Return the job's tasks as they are now, in order of submission; fetched as they are looked at.

        Args:
            state: Only tasks in this state, or in one of these: "RUNNING", "DONE", "ERROR", ...
            name: Only tasks of this name.
            attempt: Of this attempt of the job; otherwise the newest.

        Raises:
            ValueError: There is no such state; the text names those that there are.
        """
        calls, states = self._calls, [state] if isinstance(state, str) else list(state or ())
        return Tasks(lambda token: calls.tasks(self.job_id, states, name or "", attempt or 0, token))

    def error_message(self) -> str:
        """Return why the job failed, with the program's traceback; empty if it didn't."""
        return self.snapshot().error_text

    def cancel(self) -> str:
        """Ask for the job's end, and return what came of it; a job that is over stays as it is."""
        self._last, message = self._calls.cancel(self.job_id)
        return message

    stop = cancel

    def delete(self) -> None:
        """Delete a job that is over, with its log, arguments, result, history and tasks; its bill stays.

        Raises:
            ConflictError: It is not over: cancel it first.
            JobNotFoundError: There is no such job any more.
        """
        self._calls.delete(self.job_id)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments that the job was given."""
        return self._calls.arguments(self.job_id)

    def timeline(self) -> Timeline:
        """Return every change of the job with its time."""
        return Timeline(self._calls.timeline(self.job_id))

    def usage(self) -> Usage:
        """Return what each stage used: seconds on the clock, CPU seconds, QPU seconds, memory."""
        return self._calls.usage(self.job_id)

    def __await__(self) -> Generator[Any, None, Any]:
        import asyncio  # noqa: PLC0415 - Programs import this module too, and few of them await.

        return asyncio.to_thread(self.result).__await__()

    def __repr__(self) -> str:
        known = f" of {self._last.function}, {self._last.status}" if self._last else ""
        return f"<Job {self.job_id}{known}>"

    def _repr_html_(self) -> str:
        return html_table(*self._table())

    def describe(self) -> str:
        """Return the job as a table."""
        return format_table(*self._table())

    def _table(self) -> tuple[tuple[str, str], list[tuple[str, str]]]:
        now = self.snapshot()
        rows = [("function", now.function), ("version", now.function_version[:12]), ("status", now.status)]
        rows += [(name, text) for name, text in (("reason", now.reason), ("waits for", now.waiting_for)) if text]
        times = (("created", now.created), ("started", now.started), ("ended", now.ended))
        rows += [(name, f"{at.astimezone():%Y-%m-%d %H:%M:%S %Z}") for name, at in times if at]
        rows.append(("attempt", str(now.attempt)))
        rows += [("trial", "yes")] if now.trial else []
        rows += [("tasks", str(now.task_counts).removeprefix("tasks "))] if now.task_counts.total else []
        rows += [("exit code", str(now.exit_code))] if now.exit_code is not None else []
        rows += [("signal", str(now.signal))] if now.signal is not None else []
        return ("job", self.job_id), rows


class ProviderJob(Job):
    """A job of whoever, as its function's provider sees it: what it was when it was listed, and the provider's log.

    Its arguments, result, error and log are its user's alone: to ask for them raises JobNotFoundError.
    """

    def __init__(self, client: ServerlessClient, listed: JobSnapshot) -> None:
        super().__init__(listed.job_id, client, listed)
        self._listed = listed

    def snapshot(self) -> JobSnapshot:
        """Return what it was when it was listed; list again to see how it goes on."""
        return self._listed

    def result(self, *_options: Any, **_named: Any) -> Any:
        """Ask for the result, which nobody but its user gets."""
        return self._calls.result(self.job_id)
