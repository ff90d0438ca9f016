"""What arrives on the bus: requests of programs and of the gateway, and ends of programs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from qonduit_service_kit.bus import QPU_INBOX, RejectMessage, UnroutableError
from qonduit_service_kit.logs import get_logger
from qonduit_service_kit.messages import (
    INLINE_LIMIT_BYTES,
    ProgramEnded,
    QpuReply,
    QpuRequest,
)

from qonduit_qpu_broker.api.answer import Answer
from qonduit_qpu_broker.ledger import jobs, programs, sessions
from qonduit_qpu_broker.ledger.thread import LedgerUnavailableError
from qonduit_qpu_broker.problems import Conflict, Problem, Unavailable

if TYPE_CHECKING:
    from qonduit_service_kit.bus import Bus, Delivery, Subscription

    from qonduit_qpu_broker.api.router import Router
    from qonduit_qpu_broker.api.sessions import SessionsApi
    from qonduit_qpu_broker.dispatcher import Dispatcher
    from qonduit_qpu_broker.ledger.thread import LedgerThread
    from qonduit_qpu_broker.metrics import BrokerMetrics
    from qonduit_qpu_broker.payloads import Payloads

_log = get_logger("inbox")
_CONCURRENCY = 16
_SERVER_ERROR = 500
_ENDED_REASON = "Its program ended."


class Inbox:
    """Answers each request; one that comes twice is answered twice, from the ledger."""

    def __init__(
        self,
        *,
        bus: Bus,
        ledger: LedgerThread,
        payloads: Payloads,
        router: Router,
        sessions_api: SessionsApi,
        dispatcher: Dispatcher,
        metrics: BrokerMetrics,
    ) -> None:
        self._bus = bus
        self._ledger = ledger
        self._payloads = payloads
        self._router = router
        self._sessions = sessions_api
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._known: dict[str, int] = {}
        self._answering: set[str] = set()
        self._subscription: Subscription | None = None

    async def start(self) -> None:
        """Begin to answer."""
        self._subscription = await self._bus.consume(QPU_INBOX, self._handle, concurrency=_CONCURRENCY)

    async def stop(self) -> None:
        """Take no more; safe to call twice."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await subscription.cancel()

    async def _handle(self, delivery: Delivery) -> None:
        message = delivery.message
        if isinstance(message, QpuRequest):
            await self._take(message)
        elif isinstance(message, ProgramEnded):
            await self._program_ended(message)
        else:
            raise RejectMessage(f"the QPU broker does not take {type(message).__name__}")

    async def _take(self, request: QpuRequest) -> None:
        """Answer a request once at a time: one that takes long is sent again, and must not fill the inbox."""
        if request.request_id in self._answering:
            return
        self._answering.add(request.request_id)
        try:
            await self._reply(request, await self._answer(request))
        finally:
            self._answering.discard(request.request_id)

    async def _answer(self, request: QpuRequest) -> Answer:
        try:
            await self._note_program(request)
            answer = await self._router.answer(request)
        except Problem as problem:
            if problem.status >= _SERVER_ERROR:
                _log.warning("a request failed", method=request.method, path=request.path, reason=problem.message)
            answer = Answer(problem.status, problem.body())
        except LedgerUnavailableError as error:
            _log.warning("a request failed", method=request.method, path=request.path, reason=str(error))
            answer = Answer(Unavailable.status, Unavailable(f"{error} Try again.").body())
        except Exception:  # noqa: BLE001 -- the client gets an answer, the log gets the traceback.
            _log.exception("a request failed", method=request.method, path=request.path, request_id=request.request_id)
            fault = Problem("Internal error of the QPU broker.", trace=request.request_id)
            answer = Answer(fault.status, fault.body())
        self._metrics.requests.labels(request.method, str(answer.status)).inc()
        return answer

    async def _note_program(self, request: QpuRequest) -> None:
        """Note that a program lives; an attempt that is over may only read."""
        if not request.job_id or self._known.get(request.job_id) == request.attempt:
            return
        lives = await self._ledger.run(
            lambda ledger: programs.note_program(ledger, request.job_id, request.attempt, request.user)
        )
        if lives:
            self._known[request.job_id] = request.attempt
        elif request.method != "GET":
            raise Conflict(f"Attempt {request.attempt} of {request.job_id} is over.")

    async def _reply(self, request: QpuRequest, answer: Answer) -> None:
        body, digest = answer.body, answer.digest
        if len(body) > INLINE_LIMIT_BYTES:
            body, digest = b"", await self._payloads.put(body)
        reply = QpuReply(
            request_id=request.request_id,
            status=answer.status,
            content_type=answer.content_type,
            body=None if digest else body,
            body_digest=digest,
        )
        try:
            await self._bus.publish(request.reply_to, reply, persistent=False)
        except UnroutableError:
            _log.info("nobody waits for an answer any more", request_id=request.request_id)

    async def _program_ended(self, message: ProgramEnded) -> None:
        """Cancel what nobody will ask for and close the sessions; told again, it finds nothing left.

        What runs is let finish while a later attempt may come and take its result.
        """
        self._known.pop(message.job_id, None)
        ended = await self._ledger.insist(lambda ledger: programs.end_program(ledger, message.job_id, message.attempt))
        if not ended:
            return
        for session_id in await self._ledger.insist(lambda ledger: sessions.open_of(ledger, message.job_id)):
            await self._sessions.end(session_id, _ENDED_REASON)
        left = await self._ledger.insist(
            lambda ledger: jobs.left_of(ledger, job_id=message.job_id, running=message.last)
        )
        await asyncio.gather(*(self._dispatcher.cancel(job, _ENDED_REASON) for job in left))
