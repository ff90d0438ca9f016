"""IBM Quantum as an upstream: the instances of all accounts, behind one seam."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from qonduit_service_kit.logs import get_logger
from qonduit_service_kit.messages import QpuState

from qonduit_qpu_broker.ibm.bodies import MOST_TAGS, prepared, tag_of
from qonduit_qpu_broker.ibm.following import Follower
from qonduit_qpu_broker.ibm.pace import Backoff
from qonduit_qpu_broker.ibm.rest import Lane, UpstreamError
from qonduit_qpu_broker.ibm.sessions import SESSION_CLOSED, Sessions
from qonduit_qpu_broker.ibm.submitting import Submitter, WithdrawnError
from qonduit_qpu_broker.ledger import upstream as rows
from qonduit_qpu_broker.problems import Unavailable
from qonduit_qpu_broker.upstream import Device, Outcome

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from qonduit_qpu_broker.charging import ChargeBook
    from qonduit_qpu_broker.ibm.fleet import Fleet
    from qonduit_qpu_broker.ibm.instance import Instance
    from qonduit_qpu_broker.ledger.thread import LedgerThread
    from qonduit_qpu_broker.upstream import Condition, Description, Query, Submission

_log = get_logger("ibm")
_CHARGE_FIRST_S = 2.0
_CHARGE_MOST_S = 300.0
_BIG_BODY_BYTES = 256 * 1024
_LOST_RESULT = 9997
_LOOK_AGAIN_S = 30.0
_UNKNOWN_TIMES = 10


@dataclass(frozen=True, slots=True)
class _Place:
    instance: str
    backend: str


class IbmUpstream:
    """Submits, follows and fetches; what it must not forget is in the ledger before it is done."""

    programs = frozenset({"sampler", "estimator", "executor", "noise-learner"})

    def __init__(
        self,
        fleet: Fleet,
        ledger: LedgerThread,
        book: ChargeBook,
        *,
        poll_s: float,
        doubt_s: float,
        results_s: float,
        session_idle_s: float,
    ) -> None:
        self._fleet = fleet
        self._ledger = ledger
        self._poll_s = poll_s
        self._doubt_s = doubt_s
        self._results_s = results_s
        self._sessions = Sessions(ledger, book, fleet, session_idle_s)
        self._followers: dict[str, Follower] = {}
        self._places: dict[str, _Place] = {}
        """By submission."""
        self._session_at: dict[str, str] = {}
        """By session of a program: the instance in which its jobs are."""
        self._cancelled: dict[str, asyncio.Event] = {}

    async def start(self) -> None:
        """Sign in; an account that can't be used now is tried on."""
        await self._fleet.start()
        for row in await self._ledger.run(rows.open_sessions):
            self._session_at[row.session_id] = row.instance
        await self._sessions.start()

    async def stop(self) -> None:
        """Let go of everything; the ledger knows what is there."""
        await self._sessions.stop()
        for follower in self._followers.values():
            await follower.stop()
        await self._fleet.stop()

    # --- Devices -------------------------------------------------------------------------------

    def devices(self) -> Sequence[Device]:
        """Return the devices of all instances, each name once."""
        return self._fleet.devices()

    def expect(self) -> None:
        """Do nothing: the devices are there."""

    async def describe(self, kind: Description, backend: str, query: Query = ()) -> bytes:
        """Return a device's description as the provider gives it; Unavailable."""
        try:
            return await self._fleet.describe(kind, backend, query)
        except UpstreamError as error:
            raise Unavailable(f"The {kind} of {backend} can't be read now: {error}") from None

    def conditions(self) -> Sequence[Condition]:
        """Return how each instance is doing."""
        return self._fleet.conditions(Counter(place.instance for place in self._places.values()), time.time())

    # --- Places --------------------------------------------------------------------------------

    async def held(self) -> frozenset[str]:
        """Return what was, or may have been, submitted before a restart."""
        held = await self._ledger.run(rows.unfinished)
        self._places |= {row.qpu_job_id: _Place(row.instance, backend) for row, backend in held}
        return frozenset(row.qpu_job_id for row, _ in held)

    def claim(self, qpu_job_id: str, backend: str, session_id: str) -> float | None:
        """Keep a place in the least busy instance that has one; a session's jobs are all in one instance."""
        now, places = time.time(), self._places.values()
        at_device = Counter(place.instance for place in places if place.backend == backend)
        at_all = Counter(place.instance for place in places)
        candidates = [one for one in self._fleet.offering(backend) if one.is_usable]
        pinned = [one for one in candidates if one.crn == self._session_at.get(session_id)]
        rooms = {
            one.crn: one.room_in(backend, at_device[one.crn], at_all[one.crn], now) for one in pinned or candidates
        }
        free = [crn for crn, room in rooms.items() if room == 0]
        if not free:
            # With no instance that could take it, it is looked again: an account may come back.
            return min((room for room in rooms.values() if room is not None), default=None if rooms else _LOOK_AGAIN_S)
        chosen = min(free, key=lambda crn: at_all[crn])
        self._places[qpu_job_id] = _Place(chosen, backend)
        if session_id:
            self._session_at[session_id] = chosen
        return 0.0

    def give_back(self, qpu_job_id: str) -> None:
        """Give a place back."""
        self._places.pop(qpu_job_id, None)
        self._cancelled.pop(qpu_job_id, None)

    # --- Jobs ----------------------------------------------------------------------------------

    async def run(self, submission: Submission, started: Callable[[float], Awaitable[None]]) -> Outcome:
        """Submit a job once, follow it to its end and fetch its result."""
        cancelled = self._cancelled.setdefault(submission.qpu_job_id, asyncio.Event())
        if submission.session is not None:
            self._sessions.join(submission.session.session_id)
        try:
            row = await self._ledger.insist(lambda ledger: rows.job(ledger, submission.qpu_job_id))
            place = self._places[submission.qpu_job_id]
            instance = await self._fleet.wait_for(place.instance if row is None else row.instance)
            upstream_id = await self._submit(instance, submission, cancelled)
            return await self._follow(instance, submission, upstream_id, started, cancelled)
        except WithdrawnError:
            return Outcome(QpuState.CANCELLED, 0.0)
        except UpstreamError as error:
            return Outcome(QpuState.FAILED, None, reason=str(error), code=error.code or error.status)
        finally:
            self.give_back(submission.qpu_job_id)
            if submission.session is not None:
                self._sessions.leave(submission.session.session_id)

    async def cancel(self, qpu_job_id: str) -> None:
        """Have a job end, wherever it is; also one that was held and does not run yet."""
        if qpu_job_id in self._places:
            self._cancelled.setdefault(qpu_job_id, asyncio.Event()).set()

    async def _submit(self, instance: Instance, submission: Submission, cancelled: asyncio.Event) -> str:
        session, used = submission.session, ""

        async def body() -> bytes:
            nonlocal used
            if session is not None:
                used = await self._sessions.provider_id(session, instance)
            return await _prepared(submission, used)

        submitter = Submitter(instance, self._ledger, self._doubt_s)
        while True:
            try:
                return await submitter.submit(submission.qpu_job_id, body, submission.api_version, cancelled)
            except UpstreamError as error:
                # The provider closed the session, for its length or for idleness: the next one is as good.
                if session is None or error.code != SESSION_CLOSED or time.time() >= session.ends_at:
                    raise
                await self._sessions.lost(session.session_id, used)

    async def _follow(
        self,
        instance: Instance,
        submission: Submission,
        upstream_id: str,
        started: Callable[[float], Awaitable[None]],
        cancelled: asyncio.Event,
    ) -> Outcome:
        follower = await self._follower(instance)
        seen_running = False

        async def seen(at: float) -> None:
            nonlocal seen_running
            seen_running = True
            await started(at)

        document = await follower.until_final(upstream_id, seen, cancelled)
        charged_s, started_at = _charged_s(document), None
        if not seen_running or charged_s is None:
            metrics = await self._metrics(instance, upstream_id)
            charged_s, started_at = _charged_s(metrics), _moment((metrics.get("timestamps") or {}).get("running"))
        state = document["state"]
        failed = QpuState(state["status"]) is not QpuState.COMPLETED
        # Read last, and handed on at once: a private result can be read only once.
        result = await self._result(instance, submission, upstream_id, failed=failed)
        if result is None:
            reason = f"Its result can't be read: the provider does not give it out (its id there is {upstream_id})."
            return Outcome(QpuState.FAILED, charged_s, reason=reason, code=_LOST_RESULT)
        return Outcome(
            QpuState(state["status"]),
            charged_s,
            result=result,
            reason=str(state.get("reason") or ""),
            code=int(state.get("reason_code") or 0),
            started_at=started_at,
        )

    async def _metrics(self, instance: Instance, upstream_id: str) -> dict[str, Any]:
        """Return a job's metrics, or nothing: its program does not wait for them, and `charge` asks again."""
        try:
            return (await instance.call("GET", f"/jobs/{upstream_id}/metrics")).json()
        except UpstreamError:
            return {}

    async def _result(
        self, instance: Instance, submission: Submission, upstream_id: str, *, failed: bool
    ) -> bytes | None:
        """Return a job's result, byte for byte; of a failed one, what it says about it. None if it can't be had.

        Right after a job's end the provider may not have its result yet: for a while, none is not believed.
        """
        path, sure_at = f"/jobs/{upstream_id}/results", time.monotonic() + self._doubt_s
        options: dict[str, Any] = {"api_version": submission.api_version, "timeout_s": 600.0}
        backoff = Backoff()
        while True:
            try:
                reply = await instance.ask("GET", path, lane=Lane.RESULTS, patience_s=self._results_s, **options)
                if reply.body or failed:
                    return reply.body
            except UpstreamError as error:
                _log.error("a result can't be read", qpu_job_id=submission.qpu_job_id, reason=str(error))
                if failed:
                    return b""
                if not error.missing:
                    return None
            if time.monotonic() >= sure_at:
                return None
            await asyncio.sleep(backoff.next_s())

    async def _follower(self, instance: Instance) -> Follower:
        follower = self._followers.get(instance.crn)
        if follower is None:
            follower = self._followers[instance.crn] = Follower(instance, self._poll_s, self._doubt_s)
            await follower.start()
        return follower

    async def charge(self, qpu_job_id: str) -> float:
        """Return what a job was charged, once the provider says that this is final."""
        row = await self._ledger.insist(lambda ledger: rows.job(ledger, qpu_job_id))
        if row is None:
            return 0.0
        instance = await self._fleet.wait_for(row.instance)
        upstream_id = row.upstream_id or await self._looked_for(instance, qpu_job_id)
        backoff, unknown = Backoff(_CHARGE_FIRST_S, _CHARGE_MOST_S), 0
        while upstream_id:
            try:
                seconds = _charged_s(await instance.document("GET", f"/jobs/{upstream_id}/metrics"))
                if seconds is not None:
                    return seconds
            except UpstreamError as error:
                _log.error("what a job was charged can't be read", qpu_job_id=qpu_job_id, reason=str(error))
                unknown += error.missing
                if unknown >= _UNKNOWN_TIMES:
                    break
            await asyncio.sleep(backoff.next_s())
        return 0.0

    async def _looked_for(self, instance: Instance, qpu_job_id: str) -> str:
        """Return the id of a job that ended for us in doubt, if the provider has it."""
        while True:
            try:
                return await Submitter(instance, self._ledger, self._doubt_s).look_for(qpu_job_id)
            except UpstreamError as error:
                _log.warning("a submission can't be looked for", qpu_job_id=qpu_job_id, reason=str(error))
            await asyncio.sleep(_CHARGE_MOST_S)

    async def release(self, session_id: str) -> None:
        """Close what a session holds."""
        self._session_at.pop(session_id, None)
        await self._sessions.release(session_id)


async def _prepared(submission: Submission, session_id: str) -> bytes:
    """Return what to post; large bodies are prepared on a thread."""
    if submission.body is None:
        raise UpstreamError("What its program submitted is not in storage any more.", status=410)
    changes = {
        "tags": [*submission.tags[: MOST_TAGS - 1], tag_of(submission.qpu_job_id)],
        "session_id": session_id or None,
        "cost": submission.cost_s or None,
    }
    if len(submission.body) > _BIG_BODY_BYTES:
        return await asyncio.to_thread(prepared, submission.body, changes)
    return prepared(submission.body, changes)


def _charged_s(document: dict[str, Any]) -> float | None:
    """Return the seconds charged, from a job or its metrics; None while they may change."""
    usage = document.get("usage") or {}
    return float(usage.get("qpu_charge_time_seconds") or 0.0) if usage.get("status") == "complete" else None


def _moment(text: str | None) -> float | None:
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
