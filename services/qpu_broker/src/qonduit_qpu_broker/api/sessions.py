"""Sessions and batches: /sessions and what is below it."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING

from qonduit_qpu_broker.api.answer import NO_CONTENT, Answer, of_json
from qonduit_qpu_broker.api.documents import parse_body, session_document
from qonduit_qpu_broker.api.lifetimes import refuse_if_over
from qonduit_qpu_broker.ledger import jobs, sessions
from qonduit_qpu_broker.problems import BadRequest, NotFound

if TYPE_CHECKING:
    import sqlite3

    from qonduit_service_kit.messages import QpuRequest

    from qonduit_qpu_broker.api.backends import BackendsApi
    from qonduit_qpu_broker.dispatcher import Dispatcher
    from qonduit_qpu_broker.ledger.records import SessionRecord
    from qonduit_qpu_broker.ledger.thread import LedgerThread
    from qonduit_qpu_broker.upstream import Upstream

MODES = frozenset({"dedicated", "batch"})


class SessionsApi:
    """Answers about sessions. An id is the broker's own: a session costs nothing until its first job."""

    def __init__(
        self, ledger: LedgerThread, dispatcher: Dispatcher, backends: BackendsApi, upstream: Upstream, max_ttl_s: int
    ) -> None:
        self._ledger = ledger
        self._dispatcher = dispatcher
        self._backends = backends
        self._upstream = upstream
        self._max_ttl_s = max_ttl_s

    async def open(self, request: QpuRequest) -> Answer:
        """Answer POST /sessions."""
        if not request.job_id:
            raise BadRequest("Only a program opens sessions.")
        body = request.body or b"{}"
        new = self._read(request, body)
        if new.backend:
            self._backends.device(new.backend)

        def write(ledger: sqlite3.Connection) -> SessionRecord:
            refuse_if_over(ledger, request)
            return sessions.open_session(ledger, new)

        record = await self._ledger.run(write)
        return await self._document(record)

    def _read(self, request: QpuRequest, body: bytes) -> sessions.NewSession:
        """Return the session that a body asks for; BadRequest."""
        try:
            document = parse_body(body)
            max_ttl_s = int(document.get("max_ttl") or self._max_ttl_s)
            instance = str(document.get("instance") or "")
            instance.encode()  # Half a character is none.
        except (ValueError, TypeError, OverflowError) as error:
            raise BadRequest(f"The session can't be read: {error}") from None
        if max_ttl_s <= 0:
            raise BadRequest(f"'max_ttl' is the most seconds that a session may last, not {max_ttl_s}.")
        mode = str(document.get("mode") or "dedicated")
        if mode not in MODES:
            raise BadRequest(f"There is no session mode {mode!r}; use 'dedicated' or 'batch'.")
        return sessions.NewSession(
            job_id=request.job_id,
            user=request.user,
            attempt=request.attempt,
            caller=request.caller,
            call_number=request.call_number,
            digest=request.body_digest or hashlib.sha256(body).hexdigest(),
            mode=mode,
            backend=str(document.get("backend") or ""),
            instance=instance,
            max_ttl_s=min(self._max_ttl_s, max_ttl_s),
        )

    async def get(self, request: QpuRequest, session_id: str) -> Answer:
        """Answer GET /sessions/{id}."""
        return await self._document(await self._owned(request, session_id))

    async def update(self, request: QpuRequest, session_id: str) -> Answer:
        """Answer PATCH /sessions/{id}: with accepting_jobs false it takes no more, and ends with its last job."""
        await self._owned(request, session_id)
        try:
            document = parse_body(request.body or b"{}")
        except ValueError as error:
            raise BadRequest(f"The change can't be read: {error}") from None
        if document.get("accepting_jobs") is not False:
            raise BadRequest("Only accepting_jobs: false can be set.")
        await self._close(session_id)
        return NO_CONTENT

    async def cancel(self, request: QpuRequest, session_id: str) -> Answer:
        """Answer DELETE /sessions/{id}/close: what waits is cancelled, and it takes no more."""
        await self._owned(request, session_id)
        await self.end(session_id, "Its session was cancelled.")
        return NO_CONTENT

    async def end(self, session_id: str, reason: str) -> None:
        """Close a session and cancel what waits in it."""
        await self._close(session_id)
        left = await self._ledger.insist(lambda ledger: jobs.left_of(ledger, session_id=session_id))
        await asyncio.gather(*(self._dispatcher.cancel(job, reason) for job in left))

    async def _close(self, session_id: str) -> None:
        """Accept no more jobs, and let go of the device at once if none is left; else the last job's end does it.

        A crash between the two is made good at the next start.
        """
        if await self._ledger.insist(lambda ledger: sessions.close(ledger, session_id)):
            await self._upstream.release(session_id)

    async def _document(self, session: SessionRecord) -> Answer:
        times = await self._ledger.run(lambda ledger: sessions.times(ledger, session.session_id))
        return of_json(session_document(session, times))

    async def _owned(self, request: QpuRequest, session_id: str) -> SessionRecord:
        session = await self._ledger.run(lambda ledger: sessions.get(ledger, session_id))
        mine = ("job_id", request.job_id) if request.job_id else ("user", request.user)
        if session is not None and getattr(session, mine[0]) == mine[1]:
            return session
        raise NotFound(f"There is no session {session_id}.", code=1216)
