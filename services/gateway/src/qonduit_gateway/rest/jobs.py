"""Jobs."""

from __future__ import annotations

import json
import time
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
from qonduit_api.v1 import jobs_pb2, providers_pb2, qpu_pb2, types_pb2
from qonduit_service_kit.errors import ApiError
from starlette.responses import JSONResponse, Response

from qonduit_gateway.rest import bodies, envelopes, wording
from qonduit_gateway.rest.large_results import plain

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable

    from starlette.requests import Request

    from qonduit_gateway.api.jobs import JobService
    from qonduit_gateway.api.providers import ProviderService
    from qonduit_gateway.api.qpu import QpuService
    from qonduit_gateway.rest.holding import Polls

_STOP_WAIT_S = 10.0
"""A job that is stopped there is over when the call returns; here its program is given a moment to end."""


class Jobs:
    """Tells about the caller's jobs and stops them; it also tells a provider's people of jobs of its functions."""

    def __init__(
        self,
        jobs: JobService,
        qpus: QpuService,
        providers: ProviderService,
        polls: Polls,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._jobs = jobs
        self._qpus = qpus
        self._providers = providers
        self._polls = polls
        self._clock = clock

    async def get(self, request: Request) -> Response:
        """Return a job. With its result, unless `with_result=false`: then a poll may be held until it is over."""
        job_id = _job_id(request)
        try:
            job = await self._get(job_id)
        except ApiError as error:
            return JSONResponse(wording.job(await self._of_provider(job_id, error)))
        if request.query_params.get("with_result", "true").lower() != "false":
            return await self._with_result(job)
        if not _is_over(job) and (hold_s := self._hold_s(job)) > 0:
            job = await self._once_over(job_id, hold_s) or job
        if _is_over(job):
            self._polls.over(job_id)
        else:
            self._polls.answered(job_id)
        return JSONResponse(wording.job(job))

    async def result(self, request: Request) -> Response:
        """Return what the job saved, as a JSON text within JSON; 204 when there is nothing."""
        job_id = _job_id(request)
        async with self._for_its_owner(job_id, "result"):
            chunks = await self._result(job_id)
        return Response(status_code=204) if chunks is None else await envelopes.enveloped({}, "result", chunks)

    async def logs(self, request: Request) -> Response:
        """Return the job's log: its newest 50 MiB, with a first line that says so if there was more."""
        job_id = _job_id(request)
        async with self._for_its_owner(job_id, "user logs"):
            return await _log(self._jobs.StreamLogs(jobs_pb2.StreamLogsRequest(job_id=job_id), None))

    async def provider_logs(self, request: Request) -> Response:
        """Return what the job told its function's provider, to the provider's people."""
        job_id = _job_id(request)
        wanted = providers_pb2.StreamProviderLogsRequest(job_id=job_id)
        try:
            return await _log(self._providers.StreamProviderLogs(wanted, None))
        except ApiError as error:
            if error.reason != "JOB_NOT_FOUND":
                raise
        job = await self._get(job_id)  # Who sees that the job is there is told why they do not see this.
        return JSONResponse({"message": f"You don't have access to job [{job.job_id}]"}, 403)

    async def events(self, request: Request) -> Response:
        """List what happened to the job, newest first."""
        kind = request.query_params.get("type", "").strip()
        if kind not in {"", "ERROR"}:
            raise bodies.invalid("Type is not valid. Valid types: ['ERROR']")
        job = await self._get(_job_id(request))
        timeline = await self._jobs.GetTimeline(jobs_pb2.GetTimelineRequest(job_id=job.job_id), None)
        made = wording.events(job, timeline.entries)
        return JSONResponse([each for each in made if kind in {"", each["event_type"]}])

    async def runtime_jobs(self, request: Request) -> Response:
        """List the QPU jobs that the job's program submitted, with their sessions."""
        wanted = qpu_pb2.ListQpuJobsRequest(job_id=_job_id(request))
        answer = await self._qpus.ListQpuJobs(wanted, None)
        made = [
            {"runtime_job": each.qpu_job_id, "runtime_session": each.session_id or None} for each in answer.qpu_jobs
        ]
        return JSONResponse({"runtime_jobs": made})

    async def stop(self, request: Request) -> Response:
        """Stop a job, and with it its QPU jobs: no service of the caller's is needed, and none that is sent is used."""
        job_id = _job_id(request)
        before = await self._get(job_id)
        if _is_over(before):
            return JSONResponse({"message": "Job already in terminal state."})
        await self._jobs.CancelJob(jobs_pb2.CancelJobRequest(job_id=job_id), None)
        after = await self._once_over(job_id, _STOP_WAIT_S)
        if after is not None and after.state != types_pb2.JOB_STATE_CANCELED:
            return JSONResponse({"message": "Job already in terminal state."})
        return JSONResponse({"message": "Job has been stopped."})

    async def _get(self, job_id: str) -> jobs_pb2.Job:
        return await self._jobs.job(job_id)

    async def _of_provider(self, job_id: str, unknown: ApiError) -> jobs_pb2.Job:
        """Return a job that is not the caller's if they are its provider's people; raise why it is unknown if not."""
        if unknown.reason != "JOB_NOT_FOUND":
            raise unknown
        try:
            return await self._providers.job(job_id)
        except ApiError as error:
            raise error from unknown

    @asynccontextmanager
    async def _for_its_owner(self, job_id: str, what: str) -> AsyncIterator[None]:
        """Refuse its provider's people what is its owner's alone by saying so, and others as if it were not there."""
        try:
            yield
        except ApiError as error:
            job = await self._of_provider(job_id, error)
            text = f"You don't have access to read {what} of the job [{job.job_id}]"
            raise ApiError(grpc.StatusCode.PERMISSION_DENIED, "NOT_ITS_OWNER", text) from error

    async def _result(self, job_id: str) -> AsyncGenerator[bytes, None] | None:
        """Return a result's JSON, once its first piece is there; None when there is none."""
        try:
            chunks = self._jobs.GetResult(jobs_pb2.GetResultRequest(job_id=job_id), None)
            begun = await envelopes.first_of(_bytes(chunks))
        except ApiError as error:
            if error.reason != "JOB_NOT_DONE":
                raise
            return None
        return None if begun is None else plain(begun)

    async def _with_result(self, job: jobs_pb2.Job) -> Response:
        """Answer as clients before 0.26 want it, which take the result, or the error's text, from here."""
        chunks = await self._result(job.job_id)
        if chunks is not None:
            return await envelopes.enveloped(wording.job(job), "result", chunks)
        failed = job.state == types_pb2.JOB_STATE_ERROR
        return JSONResponse(wording.job(job) | {"result": json.dumps(job.error_text) if failed else None})

    def _hold_s(self, job: jobs_pb2.Job) -> float:
        age_s = self._clock() - job.create_time.ToNanoseconds() / 1e9
        return self._polls.hold_s(job.job_id, age_s)

    async def _once_over(self, job_id: str, most_s: float) -> jobs_pb2.Job | None:
        """Return the job as soon as it is over; None when that takes longer than `most_s`."""
        wanted = jobs_pb2.WatchJobRequest(job_id=job_id)
        try:
            async with self._polls.holding(most_s), _closing(self._jobs.WatchJob(wanted, None)) as changes:
                async for change in changes:
                    job: jobs_pb2.Job = change.job
                    if _is_over(job):
                        return job
        except TimeoutError:
            pass
        return None


async def _log(answers: Any) -> Response:
    """Answer with a log, once its first piece is there."""
    begun = await envelopes.first_of(_log_chunks(answers))
    if begun is None:
        # What newer clients say of a 204, which those before 0.26 can't read.
        return JSONResponse({"logs": "No logs yet."})
    return await envelopes.enveloped({}, "logs", envelopes.without_prefixes(begun))


async def _bytes(chunks: Any) -> AsyncGenerator[bytes, None]:
    async with _closing(chunks):
        async for chunk in chunks:
            yield bytes(chunk)


async def _log_chunks(answers: Any) -> AsyncGenerator[bytes, None]:
    async with _closing(answers):
        async for answer in answers:
            yield answer.chunk


def _closing(answers: Any) -> aclosing[Any]:
    """Return what ends a streaming call of a service with its use."""
    return aclosing(answers)


def _is_over(job: jobs_pb2.Job) -> bool:
    return wording.status(job)[0] in wording.OVER


def _job_id(request: Request) -> str:
    return str(request.path_params["job_id"]).strip()
