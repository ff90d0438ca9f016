"""JobService."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING, Any

import grpc
from qonduit_api.v1 import jobs_pb2, jobs_pb2_grpc, types_pb2
from qonduit_service_kit.errors import ApiError

from qonduit_gateway.api import convert, job_lists, task_lists
from qonduit_gateway.api.callers import caller
from qonduit_gateway.api.uploads import chunks_of, header_of
from qonduit_gateway.database import charge_rows, history_rows, job_rows, task_rows
from qonduit_gateway.functions.model import FunctionName
from qonduit_gateway.functions.rules import is_digest
from qonduit_gateway.jobs.model import JobState
from qonduit_gateway.jobs.tasks import TaskTally
from qonduit_gateway.jobs.usage import total, usage_by_status
from qonduit_gateway.ledger import JobNotOverError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sqlalchemy import Connection

    from qonduit_gateway.api.run_jobs import JobIntake
    from qonduit_gateway.cluster_view import ClusterView
    from qonduit_gateway.database.engine import Database
    from qonduit_gateway.database.task_rows import StateCounts
    from qonduit_gateway.jobs.model import Job
    from qonduit_gateway.ledger import Change, JobLedger
    from qonduit_gateway.storage_client import StorageClient
    from qonduit_gateway.watchers import Watchers

ARGUMENTS_LIMIT_BYTES = 256 * 1024 * 1024


class JobService(jobs_pb2_grpc.JobServiceServicer):  # type: ignore[misc,unused-ignore]
    """Runs functions and tells about the runs. Jobs of others look as if they weren't there."""

    def __init__(
        self,
        database: Database,
        ledger: JobLedger,
        intake: JobIntake,
        storage: StorageClient,
        *,
        watchers: Watchers,
        cluster: ClusterView,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._intake = intake
        self._storage = storage
        self._watchers = watchers
        self._cluster = cluster
        self._clock = clock

    async def UploadArguments(  # noqa: N802 - named by the API.
        self, request_iterator: AsyncIterator[Any], context: Any
    ) -> jobs_pb2.UploadArgumentsResponse:
        """Store large arguments."""
        del context
        header = await header_of(request_iterator)
        if not is_digest(header.digest) or not 0 <= header.size_bytes <= ARGUMENTS_LIMIT_BYTES:
            text = f"Name the sha256 in hexadecimal and a size of at most {ARGUMENTS_LIMIT_BYTES} bytes."
            raise ApiError(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENTS", text)
        digest, upload, wanted = hashlib.sha256(), self._storage.open_blob(header.digest, header.size_bytes), True
        try:
            async for chunk in chunks_of(request_iterator, header.size_bytes):
                digest.update(chunk)
                wanted = wanted and await upload.send(chunk)
            if digest.hexdigest() != header.digest:
                text = "The arguments' bytes don't match their digest. Send them again."
                raise ApiError(grpc.StatusCode.INVALID_ARGUMENT, "DIGEST_MISMATCH", text)
            await upload.finish()
        finally:
            upload.abandon()
        return jobs_pb2.UploadArgumentsResponse(digest=header.digest)

    async def Run(self, request: jobs_pb2.RunRequest, context: Any) -> jobs_pb2.RunResponse:  # noqa: N802
        """Accept a job."""
        del context
        job, created = await self._intake.run(caller(), request)
        return jobs_pb2.RunResponse(job=self._message(job), created=created)

    async def GetJob(self, request: jobs_pb2.GetJobRequest, context: Any) -> jobs_pb2.GetJobResponse:  # noqa: N802
        """Return one job."""
        del context
        return jobs_pb2.GetJobResponse(job=self._message(*await self._own_with_tasks(request.job_id)))

    async def job(self, job_id: str) -> jobs_pb2.Job:
        """Return one of the caller's jobs, without its tasks."""
        return self._message(await self._own(job_id))

    async def ListJobs(  # noqa: N802
        self, request: jobs_pb2.ListJobsRequest, context: Any
    ) -> jobs_pb2.ListJobsResponse:
        """List the caller's jobs."""
        del context
        return await self.list_of(request)

    async def list_of(
        self, request: jobs_pb2.ListJobsRequest, *, of_providers: bool | None = None
    ) -> jobs_pb2.ListJobsResponse:
        """List the caller's jobs; if asked for, those of providers' functions, or of own ones, alone."""
        owner = caller().name
        function = FunctionName.of(owner, request.function_title)
        wanted = job_rows.Wanted(owner, function.title, function.provider, of_providers)
        page = await job_lists.read(self._database, request, wanted, self._message)
        return jobs_pb2.ListJobsResponse(jobs=page.jobs, next_page_token=page.next_page_token, total=page.total)

    async def WatchJob(  # noqa: N802
        self, request: jobs_pb2.WatchJobRequest, context: Any
    ) -> AsyncIterator[jobs_pb2.WatchJobResponse]:
        """Send the job at once and at every change, until it is over; and now and then, what is new of its tasks."""
        del context
        sent, sent_tasks = request.after_revision, types_pb2.TaskCounts()
        # The watch begins before the job is read, so that nothing falls between the two.
        with self._watchers.watch(request.job_id) as watch:
            job, tasks = await self._own_with_tasks(request.job_id)
            while True:
                message = self._message(job, watch.tasks or tasks)
                if job.progress.revision > sent or message.task_counts != sent_tasks:
                    sent, sent_tasks = job.progress.revision, message.task_counts
                    yield jobs_pb2.WatchJobResponse(job=message)
                if job.progress.state.terminal:
                    return
                job = await watch.next() or job

    async def GetTimeline(  # noqa: N802
        self, request: jobs_pb2.GetTimelineRequest, context: Any
    ) -> jobs_pb2.GetTimelineResponse:
        """Return the job's history."""
        del context
        job = await self._own(request.job_id)
        history = await self._database.read(lambda connection: history_rows.history(connection, job.job_id))
        return jobs_pb2.GetTimelineResponse(entries=[convert.timeline_entry(entry) for entry in history])

    async def StreamLogs(  # noqa: N802
        self, request: jobs_pb2.StreamLogsRequest, context: Any
    ) -> AsyncIterator[jobs_pb2.StreamLogsResponse]:
        """Stream the job's log as storage gives it."""
        del context
        job = await self._own(request.job_id)
        if request.offset < 0:
            raise ApiError(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_OFFSET", "The offset must not be negative.")
        pieces = self._storage.log(job.job_id, request.offset, follow=request.follow, tail_lines=request.tail_lines)
        async for piece in pieces:
            yield jobs_pb2.StreamLogsResponse(chunk=piece.chunk, offset=piece.offset)

    async def GetResult(  # noqa: N802
        self, request: jobs_pb2.GetResultRequest, context: Any
    ) -> AsyncIterator[Any]:
        """Stream the chunks of the result of a job that is DONE; none if it saved none."""
        del context
        job = await self._own(request.job_id)
        if job.progress.state is not JobState.DONE:
            raise _not_done(job)
        if (small := self._ledger.small_result(job)) is not None:
            yield small
        elif job.progress.result_digest:
            async for chunk in self._storage.blob(job.progress.result_digest, job.progress.result_bytes):
                yield chunk

    async def GetArguments(  # noqa: N802
        self, request: jobs_pb2.GetArgumentsRequest, context: Any
    ) -> AsyncIterator[Any]:
        """Stream the chunks of the job's arguments."""
        del context
        job = await self._own(request.job_id)
        async for chunk in self._storage.blob(job.submission.arguments_digest):
            yield chunk

    async def GetUsage(  # noqa: N802
        self, request: jobs_pb2.GetUsageRequest, context: Any
    ) -> jobs_pb2.GetUsageResponse:
        """Return what the job used so far."""
        del context
        job = await self._own(request.job_id)
        history, reports, qpu_s = await self._database.read(
            lambda connection: (
                history_rows.history(connection, job.job_id),
                history_rows.usage(connection, job.job_id),
                charge_rows.total(connection, job.job_id),
            )
        )
        stages = usage_by_status(history, reports, qpu_s=qpu_s, now=self._clock())
        return jobs_pb2.GetUsageResponse(
            stages=[convert.usage(stage) for stage in stages], total=convert.usage(total(stages))
        )

    async def ListTasks(  # noqa: N802
        self, request: jobs_pb2.ListTasksRequest, context: Any
    ) -> jobs_pb2.ListTasksResponse:
        """List the tasks of one attempt."""
        del context
        return await task_lists.answer(self._database, await self._own(request.job_id), request)

    async def CancelJob(  # noqa: N802
        self, request: jobs_pb2.CancelJobRequest, context: Any
    ) -> jobs_pb2.CancelJobResponse:
        """Ask for the job's end."""
        del context
        job = await self._own(request.job_id)
        change = await self._ledger.cancel(job.job_id)
        if change is None:
            raise _not_found(request.job_id)
        _, tasks = await self._own_with_tasks(request.job_id)
        return jobs_pb2.CancelJobResponse(job=self._message(change.job, tasks), message=_what_came_of_it(change))

    async def DeleteJob(  # noqa: N802
        self, request: jobs_pb2.DeleteJobRequest, context: Any
    ) -> jobs_pb2.DeleteJobResponse:
        """Delete a job that is over, and all its bytes."""
        del context
        job = await self._own(request.job_id)
        try:
            deleted = await self._ledger.delete(job.job_id)
        except JobNotOverError as error:
            text = f"Job {job.job_id} is {error}. Cancel it, and delete it once it is over."
            metadata = {"job_id": job.job_id, "state": str(error)}
            raise ApiError(grpc.StatusCode.FAILED_PRECONDITION, "JOB_NOT_OVER", text, metadata=metadata) from error
        if not deleted:
            raise _not_found(request.job_id)
        return jobs_pb2.DeleteJobResponse()

    async def _own(self, job_id: str) -> Job:
        return _owned(await self._ledger.find(job_id), job_id)

    async def _own_with_tasks(self, job_id: str) -> tuple[Job, TaskTally | None]:
        def read(connection: Connection) -> tuple[Job | None, StateCounts]:
            job = job_rows.get(connection, job_id)
            return job, {} if job is None else task_rows.counts(connection, job_id, job.progress.attempt)

        found, counts = await self._database.read(read)
        job = _owned(found, job_id)
        return job, TaskTally(job.progress.attempt, counts) if counts else None

    def _message(self, job: Job, tasks: TaskTally | None = None) -> jobs_pb2.Job:
        return convert.job(job, self._cluster.why(job.job_id, job.progress.attempt), tasks)


def _owned(job: Job | None, job_id: str) -> Job:
    if job is None or job.submission.owner != caller().name:
        raise _not_found(job_id)
    return job


def _not_found(job_id: str) -> ApiError:
    text = f"There is no job {job_id[:100]!r} of yours. List your jobs to see which there are."
    return ApiError(grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND", text, metadata={"job_id": job_id[:100]})


def _not_done(job: Job) -> ApiError:
    state = job.progress.state
    if state.terminal:
        text = f"Job {job.job_id} ended with {state.value} and has no result. Its error and its log tell why."
    else:
        text = f"Job {job.job_id} is {state.value}; its result comes when it is DONE. Watch it to be told."
    metadata = {"job_id": job.job_id, "state": state.value}
    return ApiError(grpc.StatusCode.FAILED_PRECONDITION, "JOB_NOT_DONE", text, metadata=metadata)


def _what_came_of_it(change: Change) -> str:
    state = change.job.progress.state
    already = change.before is not None and change.before.state is state
    if state is JobState.CANCELING:
        if already:
            return "The job is being canceled already; its program is being ended."
        return "The program is being ended; if it finishes first, the job will be DONE."
    if already:
        return f"The job was over already: {state.value}. Nothing was changed."
    return "The job was canceled before it started."
