"""Follows what runs at the provider: one list, read now and then, serves all jobs of an instance."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qonduit_service_kit.logs import get_logger

from qonduit_qpu_broker.ibm.rest import MOCKS_TOO, UpstreamError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from qonduit_qpu_broker.ibm.instance import Instance

_log = get_logger("ibm")
_PAGE = 200
_SLOWEST = 10
"""How many times slower than at its fastest it looks when nothing has changed for long."""
_FIRST_LOOK_S = 0.1
_PATIENCE = 20
"""Nothing that has not changed for so many seconds changes a second later: look a twentieth of that later."""
FINAL = frozenset({"Completed", "Failed", "Cancelled"})


@dataclass(slots=True)
class _Watch:
    status: str = ""
    ended: dict[str, Any] | UpstreamError | None = None
    """Its document, once it has ended; or why there is none."""
    unknown_since: float = 0.0
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class Follower:
    """Looks at the unfinished jobs of an instance while somebody wants to know. A service part."""

    def __init__(self, instance: Instance, fastest_s: float, gone_s: float) -> None:
        """Make one that looks every `fastest_s` at most, and believes after `gone_s` that a job is not there."""
        self._instance = instance
        self._fastest_s = fastest_s
        self._gone_s = gone_s
        self._watches: dict[str, _Watch] = {}
        self._new = asyncio.Event()
        self._last_change = 0.0
        self._looking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to look."""
        self._looking = asyncio.create_task(self._look_for_ever(), name=f"follow-{self._instance.account.name}")

    async def stop(self) -> None:
        """Look no more; safe to call twice."""
        looking, self._looking = self._looking, None
        if looking is not None:
            looking.cancel()
            await asyncio.wait([looking])

    async def until_final(
        self, upstream_id: str, started: Callable[[float], Awaitable[None]], cancelled: asyncio.Event
    ) -> dict[str, Any]:
        """Return a job's document once it has ended; calls `started` when it is seen running.

        When `cancelled` is set it is cancelled at the provider, and followed on: it may end otherwise all the same.

        Raises:
            UpstreamError: The provider does not know it (any more).
        """
        running = False
        async with self._watching(upstream_id) as watch, _cancelling(self._instance, upstream_id, cancelled):
            while watch.ended is None:
                await watch.changed.wait()
                watch.changed.clear()
                if watch.status == "Running" and not running:
                    running = True
                    await started(time.time())
            if isinstance(watch.ended, UpstreamError):
                raise watch.ended
            return watch.ended

    @contextlib.asynccontextmanager
    async def _watching(self, upstream_id: str) -> AsyncIterator[_Watch]:
        watch = self._watches[upstream_id] = _Watch()
        self._last_change = time.monotonic()
        self._new.set()
        try:
            yield watch
        finally:
            del self._watches[upstream_id]

    async def _look_for_ever(self) -> None:
        while True:
            if not self._watches:
                self._new.clear()
                await self._new.wait()
            self._new.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._new.wait(), self._pause_s(time.monotonic() - self._last_change))
                continue
            try:
                await self._compare(await self._unfinished())
            except UpstreamError as error:
                _log.warning("what runs can't be listed", instance=self._instance.account.name, reason=str(error))
            except Exception:  # noqa: BLE001 -- an answer that nobody foresaw must not end the looking.
                _log.exception("what runs can't be read", instance=self._instance.account.name)

    def _pause_s(self, quiet_s: float) -> float:
        """Return how long not to look: less when something happened just now, more when nothing has for long."""
        soon_s = min(self._fastest_s, max(_FIRST_LOOK_S, quiet_s))
        return min(self._fastest_s * _SLOWEST, max(soon_s, quiet_s / _PATIENCE))

    async def _unfinished(self) -> dict[str, str]:
        """Return the status of each unfinished job, by id."""
        found: dict[str, str] = {}
        while True:
            query = (
                ("pending", "true"), ("exclude_params", "true"), ("limit", str(_PAGE)), ("offset", str(len(found))),
                *MOCKS_TOO,
            )  # fmt: skip
            page = (await self._instance.call("GET", "/jobs", query=query)).json()
            listed = page.get("jobs") or ()
            before = len(found)
            found |= {str(job["id"]): str((job.get("state") or {}).get("status")) for job in listed}
            # A page of known ones only: the list has shifted under us, and what is missing is asked for itself.
            if len(found) == before or len(found) >= int(page.get("count") or 0):
                return found

    async def _compare(self, unfinished: dict[str, str]) -> None:
        """Note what has changed; what is not among the unfinished has ended, or is not in the index yet."""
        missing = [one for one in self._watches if unfinished.get(one, "Completed") in FINAL]
        for upstream_id, watch in self._watches.items():
            if upstream_id not in missing:
                self._note(watch, unfinished[upstream_id])
        for upstream_id, document in (await self._documents(missing)).items():
            if upstream_id in self._watches:
                self._answered(self._watches[upstream_id], document)

    def _answered(self, watch: _Watch, document: dict[str, Any] | UpstreamError) -> None:
        if isinstance(document, UpstreamError):
            if not document.missing:
                return  # Asked again with the next list.
            # It was accepted, and may cost: one answer that it is not there is not believed.
            watch.unknown_since = watch.unknown_since or time.monotonic()
            if time.monotonic() - watch.unknown_since >= self._gone_s:
                watch.ended = document
                watch.changed.set()
            return
        watch.unknown_since = 0.0
        status = str((document.get("state") or {}).get("status"))
        if status in FINAL:
            watch.ended = document
            watch.changed.set()
        self._note(watch, status)

    def _note(self, watch: _Watch, status: str) -> None:
        if status != watch.status:
            watch.status = status
            watch.changed.set()
            self._last_change = time.monotonic()

    async def _documents(self, upstream_ids: Sequence[str]) -> dict[str, dict[str, Any] | UpstreamError]:
        """Return the documents of jobs; several that ended together are found in one list of what ended last."""
        found: dict[str, dict[str, Any] | UpstreamError] = {}
        if len(upstream_ids) > 1:
            query = (("pending", "false"), ("exclude_params", "true"), ("limit", str(_PAGE)), *MOCKS_TOO)
            listed = (await self._instance.call("GET", "/jobs", query=query)).json().get("jobs") or ()
            found |= {str(job["id"]): job for job in listed}
        for upstream_id in upstream_ids:
            if upstream_id in found:
                continue
            try:
                reply = await self._instance.call("GET", f"/jobs/{upstream_id}", query=(("exclude_params", "true"),))
                found[upstream_id] = reply.json()
            except UpstreamError as error:
                found[upstream_id] = error
        return found


@contextlib.asynccontextmanager
async def _cancelling(instance: Instance, upstream_id: str, cancelled: asyncio.Event) -> AsyncIterator[None]:
    """Cancel a job at the provider as soon as nobody wants it."""

    async def cancel() -> None:
        await cancelled.wait()
        try:
            await instance.ask("POST", f"/jobs/{upstream_id}/cancel", body=b"")
        except UpstreamError as error:
            _log.info("a job is not cancelled; most likely it has ended", upstream_id=upstream_id, reason=str(error))

    task = asyncio.create_task(cancel(), name=f"cancel-{upstream_id}")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
