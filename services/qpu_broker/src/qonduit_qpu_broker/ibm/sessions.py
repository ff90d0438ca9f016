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
        self._opening = asyncio.Lock()
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
                self._close(row)
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
        async with self._opening:
            row = await self._ledger.insist(lambda ledger: rows.session(ledger, terms.session_id))
            return row.upstream_id if row is not None and row.upstream_id else await self._open(terms, instance)

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
        for row in await self._ledger.insist(rows.open_sessions):
            if row.session_id == session_id and row.charge_id not in self._closing:
                await self._ledger.insist(lambda ledger, row=row: rows.session_closing(ledger, row.charge_id))  # type: ignore[misc]
                self._close(row)

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
        try:
            document = (await instance.ask("POST", "/sessions", body=_json(body), patience_s=0)).json()
        except UpstreamError:
            await self._ledger.insist(lambda ledger: rows.session_closed(ledger, charge_id, time.time()))
            raise
        upstream_id = str(document["id"])
        await self._ledger.insist(lambda ledger: rows.session_opened(ledger, charge_id, upstream_id))
        return upstream_id

    # --- End -----------------------------------------------------------------------------------

    def _close(self, row: UpstreamSession) -> None:
        task = asyncio.create_task(self._closed(row), name=f"close-{row.charge_id}")
        self._closing[row.charge_id] = task
        task.add_done_callback(lambda done: self._close_ended(row, done))

    def _close_ended(self, row: UpstreamSession, task: asyncio.Task[None]) -> None:
        self._closing.pop(row.charge_id, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a session is left open until the next start", charge_id=row.charge_id, exc_info=error)

    async def _closed(self, row: UpstreamSession) -> None:
        """Close a session at the provider, however long that takes, and book what it was charged."""
        if row.upstream_id:
            instance = await self._fleet.wait_for(row.instance)
            path = f"/sessions/{row.upstream_id}"
            try:
                await instance.ask("PATCH", path, body=_json({"accepting_jobs": False}))
                elapsed_s = await self._elapsed_s(instance, path)
            except UpstreamError as error:
                if not error.missing:
                    raise
                elapsed_s = 0.0
            if row.mode == "dedicated":
                await self._book.book_session(row.charge_id, row.session_id, elapsed_s)
        await self._ledger.insist(lambda ledger: rows.session_closed(ledger, row.charge_id, time.time()))

    async def _elapsed_s(self, instance: Instance, path: str) -> float:
        """Return for how many seconds a session held its device, once it holds it no more."""
        backoff = Backoff(first_s=0.5, most_s=30.0)
        while True:
            document = (await instance.ask("GET", path)).json()
            if document.get("state") == "closed" and document.get("elapsed_time") is not None:
                return float(document["elapsed_time"])
            await asyncio.sleep(backoff.next_s())

    # --- Watch ---------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Close sessions that have had no job for a while."""
        while True:
            await self._sweep()
            await asyncio.sleep(self._idle_s / 4)
            now = time.monotonic()
            for row in await self._ledger.insist(rows.open_sessions):
                idle_s = now - self._idle_since.setdefault(row.session_id, now)
                if row.session_id not in self._busy and idle_s >= self._idle_s:
                    _log.info("a session is idle and is closed", session_id=row.session_id, upstream_id=row.upstream_id)
                    await self.release(row.session_id)

    async def _sweep(self) -> None:
        """Close the sessions that the broker does not know, of accounts that nobody else uses."""
        for instance in self._fleet.instances():
            if instance.account.exclusive:
                async with self._opening:  # One that is being opened is not known yet.
                    await self._close_unknown(instance)

    async def _close_unknown(self, instance: Instance) -> None:
        known = await self._ledger.insist(lambda ledger: rows.known_ids(ledger, instance.crn))
        query = (("user", "me"), ("status", "pending"), ("status", "in_progress"))
        try:
            for mode in ("session", "batch"):
                listed = (await instance.call("GET", "/workloads", query=(*query, ("mode", mode)))).json()
                for found in listed.get("workloads") or ():
                    if found["id"] not in known:
                        _log.warning("a session that nobody knows is closed", upstream_id=found["id"])
                        await instance.call("DELETE", f"/sessions/{found['id']}/close")
        except UpstreamError as error:
            _log.warning("sessions can't be listed", instance=instance.account.name, reason=str(error))


def _json(document: dict[str, object]) -> bytes:
    return json.dumps(document).encode()
