"""The provider's sessions and batches: opened with a program's first job, closed whatever happens.

They cost by the clock, so each is closed as soon as nothing is left in it: when its program ends, dies or is cancelled,
when it has had no job for a while (the next job then opens another one, and the program notices nothing), and, where
nobody else uses the account, when the broker does not know it.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections import Counter
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from qonduit_service_kit.logs import get_logger

from qonduit_qpu_broker.ibm.pace import Backoff
from qonduit_qpu_broker.ibm.rest import UpstreamError
from qonduit_qpu_broker.ledger import upstream as rows

if TYPE_CHECKING:
    from qonduit_qpu_broker.charging import ChargeBook
    from qonduit_qpu_broker.ibm.fleet import Fleet
    from qonduit_qpu_broker.ibm.instance import Instance
    from qonduit_qpu_broker.ledger.thread import LedgerThread
    from qonduit_qpu_broker.ledger.upstream import UpstreamSession
    from qonduit_qpu_broker.upstream import SessionTerms

_log = get_logger("ibm")
_SHORTEST_S = 60
SESSION_CLOSED = 1217
"""The provider's code for a job of a session that takes none."""


class Sessions:
    """Those of all instances. A service part."""

    def __init__(self, ledger: LedgerThread, book: ChargeBook, fleet: Fleet, idle_s: float) -> None:
        self._ledger = ledger
        self._book = book
        self._fleet = fleet
        self._idle_s = idle_s
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """By session: held while one is opened, or its closing begun."""
        self._opening = 0
        self._busy: Counter[str] = Counter()
        """By session: how many of its jobs are upstream."""
        self._idle_since: dict[str, float] = {}
        self._closing: dict[str, asyncio.Task[None]] = {}
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Close what was to be closed, and watch the others."""
        for row in await self._ledger.run(rows.open_sessions):
            self._idle_since[row.session_id] = time.monotonic()
            if row.closing or not row.upstream_id:
                await self._close(row)
        self._watching = asyncio.create_task(self._watch(), name="ibm-sessions")

    async def stop(self) -> None:
        """Let go; what is to be closed is in the ledger."""
        tasks = [task for task in (*self._closing.values(), self._watching) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    # --- Use -----------------------------------------------------------------------------------

    async def provider_id(self, terms: SessionTerms, instance: Instance) -> str:
        """Return the provider's id of a session, opened if it is not.

        Raises:
            UpstreamError: The provider opens none.
        """
        async with self._lock(terms.session_id):
            row = await self._ledger.insist(lambda ledger: rows.session(ledger, terms.session_id))
            if row is not None and row.upstream_id and row.instance == instance.crn:
                return row.upstream_id
            if row is not None:
                await self._close(row)  # In an instance that is gone, or one of which nobody knows whether it is there.
            return await self._open(terms, instance)

    def join(self, session_id: str) -> None:
        """Count a job that is in a session."""
        self._busy[session_id] += 1

    def leave(self, session_id: str) -> None:
        """Count it no more."""
        self._busy[session_id] -= 1
        if not self._busy[session_id]:
            del self._busy[session_id]
            self._idle_since[session_id] = time.monotonic()

    async def release(self, session_id: str) -> None:
        """Close what a session of a program holds; again is the same as once."""
        async with self._lock(session_id):  # One that is being opened is waited for: it is closed, too.
            for row in await self._ledger.insist(rows.open_sessions):
                if row.session_id == session_id:
                    await self._close(row)

    async def lost(self, session_id: str, upstream_id: str) -> None:
        """Take note that the provider takes no more jobs for one of its sessions; another one is not touched."""
        async with self._lock(session_id):
            for row in await self._ledger.insist(rows.open_sessions):
                if row.session_id == session_id and row.upstream_id == upstream_id:
                    await self._close(row)

    def _lock(self, session_id: str) -> asyncio.Lock:
        return self._locks.setdefault(session_id, asyncio.Lock())

    async def _open(self, terms: SessionTerms, instance: Instance) -> str:
        """Open a session.

        A crash, or an answer that never came, may leave one at the provider that nobody knows. It has no job, so it
        costs nothing and ends by itself; where the account is the broker's alone, it is closed by `_sweep`.
        """
        charge_id = f"s{secrets.token_hex(10)}"
        intent = rows.UpstreamSession(
            charge_id, terms.session_id, instance.crn, terms.mode, terms.backend, time.time(), "", False, None  # noqa: FBT003 -- a row.
        )  # fmt: skip
        await self._ledger.insist(lambda ledger: rows.intend_session(ledger, intent))
        body = {
            "mode": terms.mode,
            "backend": terms.backend,
            "instance": instance.crn,
            "max_ttl": max(_SHORTEST_S, round(terms.ends_at - time.time())),
        }
        self._opening += 1
        try:
            answer = (await instance.call("POST", "/sessions", body=_json(body))).json()
            upstream_id = str(answer["id"])
            await self._ledger.insist(lambda ledger: rows.session_opened(ledger, charge_id, upstream_id))
        except (UpstreamError, KeyError) as error:
            await self._ledger.insist(lambda ledger: rows.session_closed(ledger, charge_id, time.time()))
            if isinstance(error, KeyError):
                raise UpstreamError("A session was opened without an id.") from None
            raise
        finally:
            self._opening -= 1
        return upstream_id

    # --- End -----------------------------------------------------------------------------------

    async def _close(self, row: UpstreamSession) -> None:
        """Begin to close a session; from the first line on the next process goes on with it."""
        await self._ledger.insist(lambda ledger: rows.session_closing(ledger, row.charge_id))
        if row.charge_id in self._closing:
            return
        task = asyncio.create_task(self._closed(row), name=f"close-{row.charge_id}")
        self._closing[row.charge_id] = task
        task.add_done_callback(lambda done: self._close_ended(row, done))

    def _close_ended(self, row: UpstreamSession, task: asyncio.Task[None]) -> None:
        self._closing.pop(row.charge_id, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a session is not closed; it is tried again", charge_id=row.charge_id, exc_info=error)

    async def _closed(self, row: UpstreamSession) -> None:
        """Close a session at the provider, however long that takes, and book what it was charged."""
        if row.upstream_id:
            instance = await self._fleet.wait_for(row.instance)
            path = f"/sessions/{row.upstream_id}"
            try:
                await instance.ask("PATCH", path, body=_json({"accepting_jobs": False}))
            except UpstreamError as error:
                if not error.missing:
                    raise  # It may be open, and cost: it is tried again.
            elapsed_s = await self._elapsed_s(instance, path, row)
            if row.mode == "dedicated":
                await self._book.book_session(row.charge_id, row.session_id, elapsed_s)
        await self._ledger.insist(lambda ledger: rows.session_closed(ledger, row.charge_id, time.time()))
        self._idle_since.pop(row.session_id, None)

    async def _elapsed_s(self, instance: Instance, path: str, row: UpstreamSession) -> float:
        """Return for how many seconds a session held its device, once it holds it no more."""
        backoff = Backoff(first_s=0.5, most_s=30.0)
        while True:
            try:
                document = await instance.document("GET", path)
            except UpstreamError as error:
                if error.missing:
                    seconds = await self._ledger.insist(lambda ledger: rows.seconds_of_jobs(ledger, row.session_id))
                    _log.error("a session is gone: its jobs' seconds are booked for it", path=path, seconds=seconds)
                    return seconds
                raise
            if document.get("state") == "closed" and document.get("elapsed_time") is not None:
                return float(document["elapsed_time"])
            await asyncio.sleep(backoff.next_s())

    # --- Watch ---------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Close sessions that have had no job for a while, and those that nobody knows."""
        while True:
            try:
                await self._sweep()
                await self._close_idle()
            except Exception:  # noqa: BLE001 -- they cost: one fault must not end the watch.
                _log.exception("sessions can't be looked after")
            await asyncio.sleep(self._idle_s / 4)

    async def _close_idle(self) -> None:
        now = time.monotonic()
        for row in await self._ledger.insist(rows.open_sessions):
            idle_s = now - self._idle_since.setdefault(row.session_id, now)
            idle = row.session_id not in self._busy and idle_s >= self._idle_s
            if row.charge_id not in self._closing and (row.closing or idle):
                _log.info("a session is closed", session_id=row.session_id, upstream_id=row.upstream_id)
                await self._close(row)

    async def _sweep(self) -> None:
        """Close the sessions that the broker does not know, of accounts that nobody else uses."""
        for instance in self._fleet.instances():
            # One that is being opened is not known yet.
            if not self._opening and instance.account.exclusive and instance.is_usable:
                await self._close_unknown(instance)

    async def _close_unknown(self, instance: Instance) -> None:
        query = (("user", "me"), ("status", "pending"), ("status", "in_progress"))
        try:
            for mode in ("session", "batch"):
                listed = (await instance.call("GET", "/workloads", query=(*query, ("mode", mode)))).json()
                known = await self._ledger.insist(lambda ledger: rows.known_ids(ledger, instance.crn))
                unknown = [found["id"] for found in listed.get("workloads") or () if found["id"] not in known]
                for upstream_id in () if self._opening else unknown:
                    _log.warning("a session that nobody knows is closed", upstream_id=upstream_id)
                    await instance.call("DELETE", f"/sessions/{upstream_id}/close")
        except UpstreamError as error:
            _log.warning("sessions can't be listed", instance=instance.account.name, reason=str(error))


def _json(document: dict[str, object]) -> bytes:
    return json.dumps(document).encode()
