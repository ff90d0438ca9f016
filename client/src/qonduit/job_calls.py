"""What jobs ask of a server: protobuf on one side, our own values on the other."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from qonduit_api.v1 import jobs_pb2 as pb
from qonduit_api.v1 import providers_pb2, types_pb2

from qonduit import encoding
from qonduit.configuration import Configuration
from qonduit.connection import CHUNK_BYTES
from qonduit.exceptions import DeadlineExceededError, ResultTimeoutError, ServerUnavailableError
from qonduit.job import JobSnapshot
from qonduit.job_history import StageUsage, TimelineEntry, ToldError, Usage
from qonduit.job_tasks import TaskCounts, TaskInfo, TasksPage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import grpc
    from google.protobuf.descriptor import EnumDescriptor
    from google.protobuf.timestamp_pb2 import Timestamp

    from qonduit.connection import Connection, Services

    Request = TypeVar("Request")

TASKS_A_CALL = 200
INLINE_ARGUMENTS_BYTES = 1024**2
"""What is larger is uploaded before the run."""


class _HasChunk(Protocol):
    chunk: bytes


class _LogPiece(_HasChunk, Protocol):
    offset: int


Piece = TypeVar("Piece", bound=_HasChunk)


class JobCalls:
    """The job service of one server."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def run(
        self,
        title: str,
        version: str,
        arguments: dict[str, Any],
        config: Configuration | None,
        idempotency_key: str,
    ) -> JobSnapshot:
        """Start a job; repeated safely when the server goes away, since the key names it."""
        asked = config or Configuration()
        request = pb.RunRequest(
            function_title=title,
            function_version=version,
            idempotency_key=idempotency_key or uuid.uuid4().hex,
            resources=types_pb2.Resources(cpu_millis=round(asked.cpu * 1000), mem_bytes=asked.mem, gpus=asked.gpus),
            time_limit_seconds=asked.time_limit_s,
            priority=asked.priority,
            qpu_budget_seconds=asked.qpu_budget_s,
            files=None if asked.files is None else pb.FileSelection(names=asked.files),
        )
        data = encoding.encode(arguments, name="arguments")
        if len(data) > INLINE_ARGUMENTS_BYTES or not data.startswith(b"{"):  # Inline there is JSON alone.
            request.arguments_digest = self._upload_arguments(data)
        else:
            request.arguments_json = data
        return snapshot_of(self._connection.call(lambda to: to.jobs.Run, request).job)

    def list_jobs(self, title: str, status: str, created_after: datetime | None, limit: int) -> list[JobSnapshot]:
        """Return the user's jobs, newest first."""
        request = pb.ListJobsRequest(function_title=title)
        return self._paged(lambda to: to.jobs.ListJobs, request, status, created_after, limit)

    def list_provider_jobs(
        self, function: str, status: str, created_after: datetime | None, limit: int
    ) -> list[JobSnapshot]:
        """Return the jobs of a provider's function, whoever runs them, newest first."""
        request = providers_pb2.ListProviderJobsRequest(function=function)
        return self._paged(lambda to: to.providers.ListProviderJobs, request, status, created_after, limit)

    def _paged(
        self,
        select: Callable[[Services], Any],
        request: pb.ListJobsRequest | providers_pb2.ListProviderJobsRequest,
        status: str,
        created_after: datetime | None,
        limit: int,
    ) -> list[JobSnapshot]:
        request.states.extend(_states_of(status))
        if created_after is not None:
            request.created_after.FromDatetime(created_after.astimezone(UTC))
        found: list[JobSnapshot] = []
        while len(found) < limit:
            request.page_size = min(limit - len(found), 1000)
            page = self._connection.call(select, request)
            found += [snapshot_of(job) for job in page.jobs]
            request.page_token = page.next_page_token
            if not page.next_page_token:
                break
        return found

    def _upload_arguments(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()

        def requests() -> Iterator[pb.UploadArgumentsRequest]:
            yield pb.UploadArgumentsRequest(header=pb.UploadArgumentsHeader(digest=digest, size_bytes=len(data)))
            for start in range(0, len(data), CHUNK_BYTES):
                yield pb.UploadArgumentsRequest(chunk=data[start : start + CHUNK_BYTES])

        return self._connection.send(lambda to: to.jobs.UploadArguments, requests).digest

    def get(self, job_id: str) -> JobSnapshot:
        """Return the job now; JobNotFoundError if there is none."""
        answer = self._connection.call(lambda to: to.jobs.GetJob, pb.GetJobRequest(job_id=job_id))
        return snapshot_of(answer.job)

    def watch(self, job_id: str, *, timeout_s: float | None) -> Iterator[JobSnapshot]:
        """Yield the job at every change until it is over, over restarts of the server."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        last: JobSnapshot | None = None
        backoff = self._connection.backoff()
        while last is None or not last.over:
            gone = ServerUnavailableError(f"The server ended its answers about job {job_id}.")
            try:
                for last in self._changes(job_id, last, _remaining(deadline)):  # noqa: B020 - Goes on from the last.
                    backoff = self._connection.backoff()
                    yield last
                # A stream that ends in order, but early, is that of a server that is being stopped.
            except DeadlineExceededError:
                raise _not_in_time(job_id, timeout_s) from None
            except ServerUnavailableError as error:
                gone = error
            if last is not None and last.over:
                return
            if deadline is not None and time.monotonic() >= deadline:
                raise _not_in_time(job_id, timeout_s)
            if not backoff.wait():
                raise gone

    def _changes(self, job_id: str, last: JobSnapshot | None, timeout_s: float | None) -> Iterator[JobSnapshot]:
        """Yield what comes after the last snapshot, on one stream."""
        seen, counts = (last.revision, last.task_counts) if last else (0, TaskCounts())
        request = pb.WatchJobRequest(job_id=job_id, after_revision=seen)
        for answer in self._connection.receive(lambda to: to.jobs.WatchJob, request, timeout_s=timeout_s):
            snapshot = snapshot_of(answer.job)
            if snapshot.over or snapshot.revision > seen or snapshot.task_counts != counts:
                seen, counts = snapshot.revision, snapshot.task_counts
                yield snapshot

    def log_chunks(
        self, job_id: str, *, follow: bool, offset: int = 0, tail: int = 0, of_provider: bool = False
    ) -> Iterator[bytes]:
        """Yield the log's bytes, or its last lines; goes on at the same byte over restarts of the server.

        It is what the job told its user, or what it told the function's provider alone.
        """
        backoff = self._connection.backoff()
        while True:
            asked = {"job_id": job_id, "offset": offset, "follow": follow, "tail_lines": tail}
            try:
                for answer in self._log_pieces(asked, of_provider=of_provider):
                    offset, tail = answer.offset + len(answer.chunk), 0
                    backoff = self._connection.backoff()
                    yield answer.chunk
            except ServerUnavailableError:
                if not backoff.wait():
                    raise
            else:
                return

    def _log_pieces(self, asked: dict[str, Any], *, of_provider: bool) -> Iterator[_LogPiece]:
        if of_provider:
            wanted = providers_pb2.StreamProviderLogsRequest(**asked)
            return self._connection.receive(lambda to: to.providers.StreamProviderLogs, wanted, timeout_s=None)
        return self._connection.receive(lambda to: to.jobs.StreamLogs, pb.StreamLogsRequest(**asked), timeout_s=None)

    def result(self, job_id: str) -> Any:
        """Return the decoded result of a job that is DONE."""
        data = self._collect(lambda to: to.jobs.GetResult, pb.GetResultRequest(job_id=job_id))
        return encoding.decode(data) if data else {}

    def arguments(self, job_id: str) -> dict[str, Any]:
        """Return the decoded arguments."""
        data = self._collect(lambda to: to.jobs.GetArguments, pb.GetArgumentsRequest(job_id=job_id))
        found: dict[str, Any] = encoding.decode(data) if data else {}
        return found

    def cancel(self, job_id: str) -> tuple[JobSnapshot, str]:
        """Ask for the job's end; return the job after it and what came of it."""
        answer = self._connection.call(lambda to: to.jobs.CancelJob, pb.CancelJobRequest(job_id=job_id))
        return snapshot_of(answer.job), answer.message

    def delete(self, job_id: str) -> None:
        """Delete a job."""
        # Not again by itself: who repeats it after a lost answer would be told that there is none.
        self._connection.call(lambda to: to.jobs.DeleteJob, pb.DeleteJobRequest(job_id=job_id), idempotent=False)

    def timeline(self, job_id: str) -> list[TimelineEntry]:
        """Return the job's changes in order."""
        answer = self._connection.call(lambda to: to.jobs.GetTimeline, pb.GetTimelineRequest(job_id=job_id))
        return [
            TimelineEntry(_utc(entry.time), entry.status, entry.attempt, entry.text, _told_error(entry))
            for entry in answer.entries
        ]

    def usage(self, job_id: str) -> Usage:
        """Return what each stage used."""
        answer = self._connection.call(lambda to: to.jobs.GetUsage, pb.GetUsageRequest(job_id=job_id))
        return Usage([_usage_of(stage) for stage in answer.stages], _usage_of(answer.total))

    def tasks(self, job_id: str, states: list[str], name: str, attempt: int, token: str) -> TasksPage:
        """Return a page of a job's tasks; ValueError if there is no such state."""
        request = pb.ListTasksRequest(
            job_id=job_id,
            page_size=TASKS_A_CALL,
            page_token=token,
            states=[_task_state_of(state) for state in states],
            name=name,
            attempt=attempt,
        )
        answer = self._connection.call(lambda to: to.jobs.ListTasks, request)
        now = datetime.now(UTC)
        counts = {
            _text_of(types_pb2.TaskState.DESCRIPTOR, each.state, "TASK_STATE_"): each.count for each in answer.counts
        }
        return TasksPage([_task_of(task, now) for task in answer.tasks], answer.next_page_token, counts, answer.attempt)

    def _collect(
        self, select: Callable[[Services], grpc.UnaryStreamMultiCallable[Request, Piece]], request: Request
    ) -> bytes:
        """Return all bytes of a stream, from its beginning again if the server goes away meanwhile."""
        backoff = self._connection.backoff()
        while True:
            try:
                return b"".join(answer.chunk for answer in self._connection.receive(select, request))
            except ServerUnavailableError:
                if not backoff.wait():
                    raise


def snapshot_of(job: pb.Job) -> JobSnapshot:
    """Return a job from the wire as our own value; texts for what this client doesn't know yet."""
    return JobSnapshot(
        job_id=job.job_id,
        function_title=job.function_title,
        function_version=job.function_version,
        owner=job.owner,
        status=job.status,
        reason=_text_of(types_pb2.Reason.DESCRIPTOR, job.reason, "REASON_"),
        error_text=job.error_text,
        attempt=job.attempt,
        revision=job.revision,
        waiting_for=job.waiting_for,
        result_bytes=job.result_bytes,
        created=_utc(job.create_time) if job.HasField("create_time") else None,
        started=_utc(job.start_time) if job.HasField("start_time") else None,
        ended=_utc(job.end_time) if job.HasField("end_time") else None,
        exit_code=job.exit_code if job.HasField("exit_code") else None,
        signal=job.signal if job.HasField("signal") else None,
        task_counts=_counts_of(job.task_counts),
        provider=job.provider,
        trial=job.trial,
    )


def _counts_of(counts: types_pb2.TaskCounts) -> TaskCounts:
    return TaskCounts(counts.queued, counts.running, counts.done, counts.failed, counts.canceled)


def _task_of(task: pb.Task, now: datetime) -> TaskInfo:
    queued, started, ended = _known(task.queue_time), _known(task.start_time), _known(task.end_time)
    until = ended or now
    begun = started or until
    return TaskInfo(
        number=task.number,
        name=task.name,
        state=_text_of(types_pb2.TaskState.DESCRIPTOR, task.state, "TASK_STATE_"),
        worker=task.worker_id,
        # Clocks of several machines meet here: a negative difference is skew.
        queue_s=max(0.0, (begun - (queued or begun)).total_seconds()),
        run_s=max(0.0, (until - begun).total_seconds()),
        cpu_s=task.cpu_seconds,
        peak_mem_bytes=task.peak_mem_bytes,
        attempt=task.attempt,
        error_text=task.error_text,
        task_id=task.task_id,
        parent_id=task.parent_task_id,
        stage=_text_of(types_pb2.Stage.DESCRIPTOR, task.stage, "STAGE_"),
        cpu=task.resources.cpu_millis / 1000,
        mem_bytes=task.resources.mem_bytes,
        gpus=task.resources.gpus,
        queued=queued,
        started=started,
        ended=ended,
    )


def _known(moment: Timestamp) -> datetime | None:
    return _utc(moment) if moment.ToNanoseconds() else None


def _task_state_of(state: str) -> types_pb2.TaskState.ValueType:
    known = {name.removeprefix("TASK_STATE_"): value for name, value in types_pb2.TaskState.items() if value}
    name = state.strip().upper()
    if name not in known:
        raise ValueError(f"No task is ever in the state {state!r}; there are {', '.join(known)}.")
    return known[name]


def _states_of(status: str) -> list[types_pb2.JobState.ValueType]:
    """Return the states that a status stands for; ValueError if there is no such status."""
    if not status:
        return []
    name = status.partition(":")[0].strip().upper()
    known = {key.removeprefix("JOB_STATE_"): value for key, value in types_pb2.JobState.items()}
    if name not in known:
        raise ValueError(f"There is no status {status!r}; there are {', '.join(list(known)[1:])}.")
    return [known[name]]


def _text_of(kind: EnumDescriptor, value: int, prefix: str) -> str:
    """Return a value's name without its prefix; empty for the one that says nothing, a number for an unknown one."""
    if value == 0:
        return ""
    known = kind.values_by_number.get(value)
    return known.name.removeprefix(prefix) if known else f"{prefix}{value}"


def _usage_of(usage: types_pb2.StageUsage) -> StageUsage:
    return StageUsage(usage.status, usage.wall_seconds, usage.cpu_seconds, usage.qpu_seconds, usage.peak_mem_bytes)


def _utc(moment: Timestamp) -> datetime:
    return moment.ToDatetime(tzinfo=UTC)


def _told_error(entry: pb.TimelineEntry) -> ToldError | None:
    if not entry.HasField("error"):
        return None
    told = entry.error
    return ToldError(told.code, told.message, told.exception, json.loads(told.args_json) if told.args_json else None)


def _not_in_time(job_id: str, timeout_s: float | None) -> ResultTimeoutError:
    return ResultTimeoutError(f"Job {job_id} was not over after {timeout_s:g} s; it goes on.", job_id=job_id)


def _remaining(deadline: float | None) -> float | None:
    return None if deadline is None else max(deadline - time.monotonic(), 0.0)
