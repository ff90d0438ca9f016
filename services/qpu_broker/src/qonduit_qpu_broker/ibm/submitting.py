"""Sends a job so that the provider has it once, whatever happens in between.

The provider has no idempotency key. So an intent is in the ledger before each POST, with a tag that goes on the job;
after a crash or an answer that never came, the job is looked for by that tag, for as long as the provider's index may
lag, before it is sent again. While that is not decided, nothing is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from qonduit_service_kit.logs import get_logger

from qonduit_qpu_broker.ibm.bodies import tag_of
from qonduit_qpu_broker.ibm.metrics import RETRIES
from qonduit_qpu_broker.ibm.pace import Backoff
from qonduit_qpu_broker.ibm.rest import MOCKS_TOO, Lane, UpstreamError
from qonduit_qpu_broker.ledger import upstream as rows

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from qonduit_qpu_broker.ibm.instance import Instance
    from qonduit_qpu_broker.ledger.thread import LedgerThread

_log = get_logger("ibm")
_POST_S = 120.0
_LOOK_MOST_S = 10.0


class WithdrawnError(Exception):
    """It was cancelled before it was sent."""


class Submitter:
    """Submits to one instance."""

    def __init__(self, instance: Instance, ledger: LedgerThread, doubt_s: float) -> None:
        self._instance = instance
        self._ledger = ledger
        self._doubt_s = doubt_s

    async def submit(
        self,
        qpu_job_id: str,
        body: Callable[[], Awaitable[bytes]],
        api_version: str,
        cancelled: asyncio.Event,
    ) -> str:
        """Return the provider's id of a job, which it has once.

        Args:
            qpu_job_id: The broker's id.
            body: Returns what to post, with the job's tag on it; called before each POST.
            api_version: The version that the program's client asked for.
            cancelled: Set when nobody wants it any more.

        Raises:
            UpstreamError: The provider refuses it; it has no such job.
            WithdrawnError: It was cancelled before it was sent.
        """
        row = await self._ledger.insist(lambda ledger: rows.job(ledger, qpu_job_id))
        if row is not None and row.upstream_id:
            return row.upstream_id
        upstream_id = "" if row is None else await self._found(qpu_job_id)
        backoff, least_s = Backoff(), 0.0
        while not upstream_id:
            content = await self._content(body, qpu_job_id)
            await self._turn(cancelled, qpu_job_id, least_s)
            if content is not None:
                # In the same breath as the look at the limit, so that two don't take the same place.
                self._instance.limit.take(time.time())
                upstream_id = await self._post(qpu_job_id, content, api_version)
            if not upstream_id:
                RETRIES.labels(self._instance.account.name, "submission").inc()
            least_s = backoff.next_s()
        # A crash before this line finds the intent, and then the job by its tag.
        await self._ledger.insist(lambda ledger: rows.accepted(ledger, qpu_job_id, upstream_id))
        return upstream_id

    async def _content(self, body: Callable[[], Awaitable[bytes]], qpu_job_id: str) -> bytes | None:
        """Return what to post, which may need a session; None if that can't be had now."""
        try:
            return await body()
        except UpstreamError as error:
            if not (error.fault or error.throttled or error.refused):
                raise
            _log.warning("a session can't be opened now", qpu_job_id=qpu_job_id, reason=str(error))
            return None

    async def _turn(self, cancelled: asyncio.Event, qpu_job_id: str, least_s: float) -> None:
        """Return when one may be sent; WithdrawnError if it is cancelled first."""
        wait_s = max(least_s, self._instance.sending_in(time.time()))
        while wait_s > 0 and not cancelled.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(cancelled.wait(), wait_s)
            wait_s = self._instance.sending_in(time.time())
        if cancelled.is_set():
            await self._ledger.insist(lambda ledger: rows.withdraw(ledger, qpu_job_id))
            raise WithdrawnError

    async def _post(self, qpu_job_id: str, body: bytes, api_version: str) -> str:
        """Send it once and return its id; empty if the provider surely does not have it, and may take it later."""
        intent = rows.UpstreamJob(qpu_job_id, self._instance.crn, tag_of(qpu_job_id), time.time(), "")
        await self._ledger.insist(lambda ledger: rows.intend(ledger, intent))
        try:
            reply = await self._instance.call(
                "POST", "/jobs", body=body, api_version=api_version, timeout_s=_POST_S, lane=Lane.SUBMIT
            )
            if upstream_id := str(reply.json().get("id") or ""):
                return upstream_id
            _log.warning("a submission was answered without an id", qpu_job_id=qpu_job_id)
        except UpstreamError as error:
            _log.warning("a submission failed", qpu_job_id=qpu_job_id, status=error.status, reason=str(error))
            if not error.ambiguous:
                if error.throttled or error.fault or error.refused:
                    return ""
                await self._ledger.insist(lambda ledger: rows.withdraw(ledger, qpu_job_id))
                raise
        return await self._found(qpu_job_id)

    async def _found(self, qpu_job_id: str) -> str:
        """Return the id of a job that may have been sent, by its tag; empty once it is sure that it was not.

        The time of doubt begins now, when nothing is on its way any more: the request has failed, or the process that
        sent it is gone. Only a list that was read after that time, and does not hold the job, makes it sure.
        """
        sure_at, backoff = time.time() + self._doubt_s, Backoff(first_s=0.2, most_s=_LOOK_MOST_S)
        while True:
            asked_at = time.time()
            try:
                if upstream_id := await self.look_for(qpu_job_id):
                    _log.info("a submission is found again", qpu_job_id=qpu_job_id, upstream_id=upstream_id)
                    return upstream_id
                if asked_at >= sure_at:
                    return ""
            except UpstreamError as error:
                _log.warning("a submission can't be looked for", qpu_job_id=qpu_job_id, reason=str(error))
            await asyncio.sleep(backoff.next_s())

    async def look_for(self, qpu_job_id: str) -> str:
        """Return the id of a job by its tag, or nothing; UpstreamError."""
        query = (("tags", tag_of(qpu_job_id)), ("exclude_params", "true"), ("limit", "1"), *MOCKS_TOO)
        listed = (await self._instance.document("GET", "/jobs", query=query)).get("jobs") or ()
        return next((str(job["id"]) for job in listed), "")
