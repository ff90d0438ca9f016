"""What the gateway asks for a user: their jobs and sessions a page at a time, and how the instances are doing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from qonduit_qpu_broker.api.answer import of_json
from qonduit_qpu_broker.api.documents import operator_document, operator_session_document, overview_document
from qonduit_qpu_broker.ledger import pages, sessions
from qonduit_qpu_broker.problems import BadRequest, NotFound

if TYPE_CHECKING:
    from collections.abc import Callable

    from qonduit_service_kit.messages import QpuRequest

    from qonduit_qpu_broker.api.answer import Answer
    from qonduit_qpu_broker.api.jobs import JobsApi
    from qonduit_qpu_broker.api.sessions import SessionsApi
    from qonduit_qpu_broker.ledger.thread import LedgerThread
    from qonduit_qpu_broker.queueing import Place
    from qonduit_qpu_broker.upstream import Upstream

MAX_PAGE = 200
BEFORE = "qonduit_before"
"""In a query: the row where the last page ended, or nothing for the first one."""


class OperatorApi:
    """Answers requests without a job id; those of programs go on to whom they are for."""

    def __init__(
        self,
        ledger: LedgerThread,
        upstream: Upstream,
        queue_length: Callable[[str], int],
        place_of: Callable[[str, float], Place],
        *,
        jobs: JobsApi,
        sessions_api: SessionsApi,
    ) -> None:
        self._ledger = ledger
        self._upstream = upstream
        self._queue_length = queue_length
        self._place_of = place_of
        self._jobs = jobs
        self._sessions = sessions_api

    async def jobs(self, request: QpuRequest) -> Answer:
        """Answer GET /jobs; with a place to go on from, a page of all that the user has."""
        if request.job_id or BEFORE not in dict(request.query):
            return await self._jobs.list(request)
        wanted = _page(request)
        found = await self._ledger.run(lambda ledger: pages.jobs_page(ledger, wanted))
        documents = [operator_document(job, request.api_version, self._place_of) for _, job in found]
        return of_json({"jobs": documents, "next": found[-1][0] if len(found) == wanted.limit else None})

    async def sessions(self, request: QpuRequest) -> Answer:
        """Answer GET /sessions: a page of the user's sessions and batches, newest first."""
        _refuse_program(request)
        wanted, now = _page(request), time.time()
        found = await self._ledger.run(lambda ledger: pages.sessions_page(ledger, wanted, now=now))
        documents = [operator_session_document(session, times) for _, session, times in found]
        return of_json({"sessions": documents, "next": found[-1][0] if len(found) == wanted.limit else None})

    async def session(self, request: QpuRequest, session_id: str) -> Answer:
        """Answer GET /sessions/{id}."""
        if request.job_id:
            return await self._sessions.get(request, session_id)
        session = await self._ledger.run(lambda ledger: sessions.get(ledger, session_id))
        if session is None or session.user != request.user:
            raise NotFound(f"There is no session {session_id}.", code=1216)
        times = await self._ledger.run(lambda ledger: sessions.times(ledger, session_id))
        return of_json(operator_session_document(session, times))

    async def status(self, request: QpuRequest) -> Answer:
        """Answer GET /status: how the instances are doing, and how many jobs wait for each device."""
        _refuse_program(request)
        devices = [(device, self._queue_length(device.name)) for device in self._upstream.devices() if not device.mock]
        return of_json(overview_document(self._upstream.conditions(), devices))


def _refuse_program(request: QpuRequest) -> None:
    if request.job_id:
        raise NotFound(f"{request.method} {request.path} is not served to programs.")


def _page(request: QpuRequest) -> pages.PageOf:
    query = dict(request.query)
    try:
        limit = min(MAX_PAGE, max(1, int(query.get("limit", MAX_PAGE))))
        pending = query.get("pending", "").lower() == "true"
        if before := query.get(BEFORE, ""):
            return pages.PageOf(request.user, limit, int(before), pending=pending)
    except ValueError as error:
        raise BadRequest(f"The page can't be read: {error}") from None
    return pages.PageOf(request.user, limit, pending=pending)
