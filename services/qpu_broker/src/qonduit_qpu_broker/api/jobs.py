"""QPU jobs: /jobs and what is below it."""

from __future__ import annotations

import asyncio
import hashlib
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from qonduit_service_kit import tracing
from qonduit_service_kit.messages import QpuState

from qonduit_qpu_broker import budgets
from qonduit_qpu_broker.api.answer import NO_CONTENT, Answer, of_json, of_text
from qonduit_qpu_broker.api.backends import wants_mocks
from qonduit_qpu_broker.api.documents import (
    job_document,
    metrics_document,
    operator_document,
    parse_body,
    session_state,
)
from qonduit_qpu_broker.api.lifetimes import refuse_if_over
from qonduit_qpu_broker.api.submission import Posted, read_submission, read_tags
from qonduit_qpu_broker.dispatcher import ANSWER_FIRST_S
from qonduit_qpu_broker.ledger import charges, jobs, listing, sessions
from qonduit_qpu_broker.ledger.records import Budget, JobRecord, NewJob
from qonduit_qpu_broker.problems import BadRequest, Conflict, NotFound

if TYPE_CHECKING:
    import sqlite3

    from qonduit_service_kit.messages import QpuRequest

    from qonduit_qpu_broker.api.backends import BackendsApi
    from qonduit_qpu_broker.dispatcher import Dispatcher
    from qonduit_qpu_broker.ledger.thread import LedgerThread
    from qonduit_qpu_broker.metrics import BrokerMetrics
    from qonduit_qpu_broker.outbox import Outbox
    from qonduit_qpu_broker.payloads import Payloads

MAX_PAGE = 200
_MOST_ROWS = 2**31
_PENDING = {"true": True, "false": False}
_BIG_JSON_BYTES = 256 * 1024


class JobsApi:
    """Answers about QPU jobs. A program sees its own, the gateway those of one user."""

    def __init__(
        self,
        *,
        ledger: LedgerThread,
        payloads: Payloads,
        dispatcher: Dispatcher,
        outbox: Outbox,
        backends: BackendsApi,
        metrics: BrokerMetrics,
        programs: frozenset[str],
        max_body_bytes: int,
    ) -> None:
        self._ledger = ledger
        self._payloads = payloads
        self._dispatcher = dispatcher
        self._outbox = outbox
        self._backends = backends
        self._metrics = metrics
        self._programs = programs
        self._max_body_bytes = max_body_bytes

    # --- Submission ----------------------------------------------------------------------------

    async def submit(self, request: QpuRequest) -> Answer:
        """Answer POST /jobs once the job is in the ledger; it runs later."""
        if not request.job_id:
            raise BadRequest("Only a program submits QPU jobs.")
        body = await self.posted_body(request)
        posted = read_submission(await self._parse(body))
        self._check(posted)
        job = NewJob(
            job_id=request.job_id,
            attempt=request.attempt,
            user=request.user,
            caller=request.caller,
            call_number=request.call_number,
            reply_to=request.reply_to,
            digest=request.body_digest or hashlib.sha256(body).hexdigest(),
            program=posted.program,
            backend=posted.backend,
            session_id=posted.session_id,
            tags=posted.tags,
            private=posted.private,
            cost_s=posted.cost_s,
            api_version=request.api_version,
            body=request.body,
            body_digest=request.body_digest,
            budget=Budget(request.qpu_budget_s, request.user_qpu_budget_s),
            simulated=self._backends.device(posted.backend).simulated,
            traceparent=tracing.current(),
        )
        place = self._dispatcher.place(posted.backend, time.time())

        def write(ledger: sqlite3.Connection) -> tuple[JobRecord, bool]:
            refuse_if_over(ledger, request)
            record, new = jobs.submit(ledger, job, place)
            if new:  # What was paid for before is given out, whatever has become of its session or budget.
                if posted.session_id:
                    _check_session(ledger, request, posted)
                _check_budget(ledger, record)
            return record, new

        record, new = await self._ledger.run(write)
        asyncio.get_running_loop().call_later(ANSWER_FIRST_S, self._outbox.wake)
        if not record.state.final:
            self._dispatcher.enqueue(record)
        if new:
            self._metrics.submissions.labels(record.backend, record.program).inc()
        answer = {"id": record.qpu_job_id, "backend": record.backend}
        return of_json(answer | ({"session_id": record.session_id} if record.session_id else {}))

    async def posted_body(self, request: QpuRequest) -> bytes:
        """Return what a request carries, from the message or from storage."""
        if request.body is not None:
            return request.body
        return await self._payloads.get(request.body_digest, max_bytes=self._max_body_bytes)

    async def _parse(self, body: bytes) -> dict[str, Any]:
        try:
            if len(body) > _BIG_JSON_BYTES:
                return await asyncio.to_thread(parse_body, body)
            return parse_body(body)
        except ValueError as error:
            raise BadRequest(f"The job can't be read: {error}") from None

    def _check(self, posted: Posted) -> None:
        try:
            self._backends.device(posted.backend)
        except NotFound as problem:
            # The client takes a 404 here for an unknown program.
            raise BadRequest(problem.message, code=1007, solution=problem.solution) from None
        if posted.program not in self._programs:
            known = ", ".join(sorted(self._programs))
            raise BadRequest(f"The program {posted.program!r} is not run here; known are: {known}.", code=1103)

    # --- Reading -------------------------------------------------------------------------------

    async def get(self, request: QpuRequest, qpu_job_id: str) -> Answer:
        """Answer GET /jobs/{id}."""
        job = await self._owned(request, qpu_job_id)
        params = None
        if dict(request.query).get("exclude_params", "").lower() != "true":
            body = await self._ledger.run(lambda ledger: jobs.body(ledger, qpu_job_id))
            if body is None:
                body = await self._payloads.get(job.body_digest, max_bytes=self._max_body_bytes)
            params = (await self._parse(body)).get("params")
        if not request.job_id:
            return of_json(operator_document(job, request.api_version, self._dispatcher.place))
        return of_json(job_document(job, request.api_version, params=params))

    async def list(self, request: QpuRequest) -> Answer:
        """Answer GET /jobs."""
        wanted = _filter(request)
        found, count = await self._ledger.run(lambda ledger: listing.list_jobs(ledger, wanted))
        if request.job_id:
            documents = [job_document(job, request.api_version) for job in found]
        else:
            documents = [operator_document(job, request.api_version, self._dispatcher.place) for job in found]
        return of_json(
            {
                "jobs": documents,
                "count": count,
                "limit": wanted.limit,
                "offset": wanted.offset,
            }
        )

    async def results(self, request: QpuRequest, qpu_job_id: str) -> Answer:
        """Answer GET /jobs/{id}/results: the bytes as they came from the device."""
        job = await self._owned(request, qpu_job_id)
        if not job.state.final:
            return NO_CONTENT
        if job.result_digest:
            return Answer(digest=job.result_digest)
        result = await self._ledger.run(lambda ledger: jobs.result(ledger, qpu_job_id))
        if job.state == QpuState.COMPLETED and result:
            return Answer(body=result)
        text = result or job.reason.encode()
        return of_text(text) if text else NO_CONTENT

    async def metrics(self, request: QpuRequest, qpu_job_id: str) -> Answer:
        """Answer GET /jobs/{id}/metrics."""
        return of_json(metrics_document(await self._owned(request, qpu_job_id), request.api_version))

    async def logs(self, request: QpuRequest, qpu_job_id: str) -> Answer:
        """Answer GET /jobs/{id}/logs; local devices write none but why a job failed."""
        return of_text((await self._owned(request, qpu_job_id)).reason.encode())

    # --- Changing ------------------------------------------------------------------------------

    async def cancel(self, request: QpuRequest, qpu_job_id: str) -> Answer:
        """Answer POST /jobs/{id}/cancel; the same request again is answered the same."""
        job = await self._owned(request, qpu_job_id)
        if job.state.final:
            if job.cancel_request_id == request.request_id:
                return NO_CONTENT
            raise Conflict(f"Job {qpu_job_id} is {job.state.value} and can't be cancelled.", code=1254)
        await self._ledger.run(lambda ledger: jobs.note_cancel(ledger, qpu_job_id, request.request_id))
        await self._dispatcher.cancel(job, f"Cancelled by its {'program' if request.job_id else 'user'}.")
        return NO_CONTENT

    async def delete(self, request: QpuRequest, qpu_job_id: str) -> Answer:
        """Answer DELETE /jobs/{id}: hidden from now on; what it cost stays in the ledger."""
        job = await self._owned(request, qpu_job_id)
        if not job.state.final:
            raise Conflict(f"Job {qpu_job_id} is {job.state.value}: cancel it first.", code=1255)
        await self._ledger.run(lambda ledger: jobs.note_delete(ledger, qpu_job_id, request.request_id))
        return NO_CONTENT

    async def set_tags(self, request: QpuRequest, qpu_job_id: str) -> Answer:
        """Answer PUT /jobs/{id}/tags."""
        await self._owned(request, qpu_job_id)
        tags = read_tags((await self._parse(await self.posted_body(request))).get("tags"))
        await self._ledger.run(lambda ledger: jobs.set_tags(ledger, qpu_job_id, tags))
        return NO_CONTENT

    async def _owned(self, request: QpuRequest, qpu_job_id: str) -> JobRecord:
        """Return a job; one of another program, or a deleted one, is not there."""
        job = await self._ledger.run(lambda ledger: jobs.get(ledger, qpu_job_id))
        if job is not None:
            mine = job.job_id == request.job_id if request.job_id else job.user == request.user
            if mine and job.delete_request_id in {"", request.request_id}:
                return job
        raise NotFound(f"There is no job {qpu_job_id}.", code=1291)


def _check_budget(ledger: sqlite3.Connection, job: JobRecord) -> None:
    """Refuse a new job of somebody who has nothing left."""
    now = time.time()
    spent = charges.spent(ledger, job.user, job.job_id, now - budgets.USER_WINDOW_S, now)
    if reason := budgets.refusal(job.budget, spent):
        raise Conflict(reason, code=1515)


def _check_session(ledger: sqlite3.Connection, request: QpuRequest, posted: Posted) -> None:
    session = sessions.get(ledger, posted.session_id)
    if session is None or session.job_id != request.job_id:
        raise BadRequest(f"There is no session {posted.session_id}.", code=1216)
    if not session.accepting or session_state(session, time.time()) == "closed":
        raise BadRequest(f"Session {posted.session_id} has been closed.", code=1217, solution="Open a new session.")
    if session.backend and session.backend != posted.backend:
        raise BadRequest(f"Session {posted.session_id} is for {session.backend}, not for {posted.backend}.", code=1218)


def _filter(request: QpuRequest) -> listing.JobFilter:
    query = dict(request.query)
    owner = {"job_id": request.job_id} if request.job_id else {"user": request.user}
    if not request.job_id and query.get("qonduit_job_id"):
        owner["job_id"] = query["qonduit_job_id"]
    try:
        return listing.JobFilter(
            **owner,
            pending=_PENDING[query["pending"].lower()] if "pending" in query else None,
            program=query.get("program", ""),
            backend=query.get("backend", ""),
            session_id=query.get("session_id", ""),
            tags=tuple(value for name, value in request.query if name == "tags"),
            created_after=_moment(query.get("created_after")),
            created_before=_moment(query.get("created_before")),
            limit=min(MAX_PAGE, max(1, int(query.get("limit", 20)))),
            offset=min(_MOST_ROWS, max(0, int(query.get("offset", 0)))),
            ascending=query.get("sort", "DESC").upper() == "ASC",
            mocks=wants_mocks(request) or not request.job_id or "backend" in query,
        )
    except (ValueError, KeyError) as error:
        raise BadRequest(f"The filter can't be read: {error}") from None


def _moment(text: str | None) -> float | None:
    if text is None:
        return None
    found = datetime.fromisoformat(text)
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
