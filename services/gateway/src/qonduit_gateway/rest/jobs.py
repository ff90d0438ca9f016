"""Jobs."""

from __future__ import annotations

import json
import time
from contextlib import aclosing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from google.protobuf.timestamp_pb2 import Timestamp
from qonduit_api.v1 import jobs_pb2, qpu_pb2, types_pb2
from starlette.responses import JSONResponse, Response

from qonduit_gateway.rest import bodies, envelopes, wording
from qonduit_gateway.rest.large_results import plain

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping

    from starlette.requests import Request

    from qonduit_gateway.api.jobs import JobService
    from qonduit_gateway.api.qpu import QpuService
    from qonduit_gateway.rest.holding import Polls
    from qonduit_gateway.rest.programs import Programs

_PAGE = 1000
_DEFAULT_LIMIT = 100
_MOST_DIGITS = 9
_STOP_WAIT_S = 10.0
"""A job that is stopped there is over when the call returns; here its program is given a moment to end."""


class Jobs:
    """Tells about the caller's jobs and stops them."""

    def __init__(
        self,
        jobs: JobService,
        qpus: QpuService,
        programs: Programs,
        polls: Polls,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._jobs = jobs
        self._qpus = qpus
        self._programs = programs
        self._polls = polls
        self._clock = clock

    async def list(self, request: Request) -> Response:
        """List a page of the caller's jobs, newest first."""
        asked = request.query_params
        limit, offset = _number(asked, "limit", _DEFAULT_LIMIT), _number(asked, "offset", 0)
        wanted = jobs_pb2.ListJobsRequest(skip=offset, count=True)
        if title := asked.get("function") or asked.get("title"):  # Its second name is that of clients before 0.26.
            wanted.function_title = (await self._programs.find_for(title, asked.get("provider"))).spec.title
        status = asked.get("status", "").strip()
        states = wording.states_of(status) if status else []
        if states is None or asked.get("filter") == "catalog":
            return JSONResponse(_page(request, [], 0, limit, offset))
        wanted.states.extend(states)
        if after := asked.get("created_after", "").strip():
            wanted.created_after.CopyFrom(_time(after))
        found: list[dict[str, Any]] = []
        total = 0
        while True:
            wanted.page_size = min(limit - len(found), _PAGE) if limit else _PAGE
            answer = await self._jobs.ListJobs(wanted, None)
            total = total or answer.total
            found += map(wording.job, answer.jobs)
            if not answer.next_page_token or (limit and len(found) >= limit):
                return JSONResponse(_page(request, found, total, limit, offset))
            wanted.page_token, wanted.skip, wanted.count = answer.next_page_token, 0, False

    async def get(self, request: Request) -> Response:
        """Return a job. With its result, unless `with_result=false`: then a poll may be held until it is over."""
        job_id = _job_id(request)
        job = await self._get(job_id)
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
        job = await self._get(_job_id(request))
        chunks = await self._result(job)
        return Response(status_code=204) if chunks is None else envelopes.enveloped({}, "result", chunks)

    async def logs(self, request: Request) -> Response:
        """Return the job's log: its newest 50 MiB, with a first line that says so if there was more."""
        wanted = jobs_pb2.StreamLogsRequest(job_id=_job_id(request))

        async def chunks() -> AsyncGenerator[bytes, None]:
            async with _closing(self._jobs.StreamLogs(wanted, None)) as pieces:
                async for piece in pieces:
                    yield piece.chunk

        begun = await envelopes.first_of(chunks())
        if begun is None:
            # What newer clients say of a 204, which those before 0.26 can't read.
            return JSONResponse({"logs": "No logs yet."})
        return envelopes.enveloped({}, "logs", envelopes.without_prefixes(begun))

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

    async def provider_logs(self, request: Request) -> Response:
        """Refuse: only a provider's functions have logs of the provider's own."""
        job = await self._get(_job_id(request))
        return JSONResponse({"message": f"You don't have access to job [{job.job_id}]"}, 403)

    async def _get(self, job_id: str) -> jobs_pb2.Job:
        return (await self._jobs.GetJob(jobs_pb2.GetJobRequest(job_id=job_id), None)).job

    async def _result(self, job: jobs_pb2.Job) -> AsyncGenerator[bytes, None] | None:
        if job.state != types_pb2.JOB_STATE_DONE or not job.result_bytes:
            return None

        async def chunks() -> AsyncGenerator[bytes, None]:
            wanted = jobs_pb2.GetResultRequest(job_id=job.job_id)
            async with _closing(self._jobs.GetResult(wanted, None)) as pieces:
                async for piece in pieces:
                    yield piece.chunk

        begun = await envelopes.first_of(chunks())
        return None if begun is None else plain(begun)

    async def _with_result(self, job: jobs_pb2.Job) -> Response:
        """Answer as clients before 0.26 want it, which take the result, or the error's text, from here."""
        chunks = await self._result(job)
        if chunks is not None:
            return envelopes.enveloped(wording.job(job), "result", chunks)
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


def _closing(answers: Any) -> aclosing[Any]:
    """Return what ends a streaming call of a service with its use."""
    return aclosing(answers)


def _is_over(job: jobs_pb2.Job) -> bool:
    return wording.status(job)[0] in wording.OVER


def _job_id(request: Request) -> str:
    return str(request.path_params["job_id"]).strip()


def _number(asked: Mapping[str, str], name: str, default: int) -> int:
    sent = asked.get(name, "").strip()
    if not sent:
        return default
    if not sent.isascii() or not sent.isdigit() or len(sent) > _MOST_DIGITS:
        raise bodies.invalid(f"{name} must be a whole number, 0 or more, and is {sent[:50]!r}.")
    return int(sent)


def _time(sent: str) -> Timestamp:
    """Read a time as that client writes one: ISO, with a blank or a T in the middle; without a zone it is UTC."""
    made = Timestamp()
    try:
        read = datetime.fromisoformat(sent)
        made.FromDatetime(read if read.tzinfo else read.replace(tzinfo=UTC))
    except ValueError as error:
        raise bodies.invalid(
            f"created_after must be a time such as 2026-01-31T12:00:00Z, and is {sent[:50]!r}."
        ) from error
    return made


def _page(request: Request, results: list[Any], total: int, limit: int, offset: int) -> dict[str, Any]:
    def link(at: int) -> str:
        return str(request.url.include_query_params(limit=limit, offset=at))

    more = limit and offset + len(results) < total
    return {
        "count": total,
        "next": link(offset + limit) if more else None,
        "previous": link(max(offset - limit, 0)) if limit and offset else None,
        "results": results,
    }
