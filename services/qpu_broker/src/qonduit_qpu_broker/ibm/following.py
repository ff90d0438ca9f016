"""Follows what runs at the provider: one list, read now and then, serves all jobs of an instance."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qonduit_service_kit.logs import get_logger

from qonduit_qpu_broker.ibm.rest import UpstreamError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from qonduit_qpu_broker.ibm.instance import Instance

_log = get_logger("ibm")
_PAGE = 200
_SLOWEST = 10
"""How many times slower than at its fastest it looks when nothing has changed for long."""
_PATIENCE = 20
"""Nothing that has not changed for so many seconds changes a second later: look a twentieth of that later."""
FINAL = frozenset({"Completed", "Failed", "Cancelled"})


@dataclass(slots=True)
class _Watch:
    status: str = ""
    """As listed last; empty when it is not in the list: it has ended, or is not in it yet."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class Follower:
    """Looks at the unfinished jobs of an instance while somebody wants to know. A service part."""

    def __init__(self, instance: Instance, fastest_s: float) -> None:
        self._instance = instance
        self._fastest_s = fastest_s
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
            while True:
                if watch.status == "Running" and not running:
                    running = True
                    await started(time.time())
                elif not watch.status:
                    # Not among the unfinished: asked for itself, so that one too quick to be listed is not missed.
                    path = f"/jobs/{upstream_id}"
                    document = (await self._instance.ask("GET", path, query=(("exclude_params", "true"),))).json()
                    status = str((document.get("state") or {}).get("status"))
                    if status in FINAL:
                        return document
                    watch.status = status
                    continue
                await watch.changed.wait()
                watch.changed.clear()

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
            quiet_s = time.monotonic() - self._last_change
            pause_s = min(self._fastest_s * _SLOWEST, max(self._fastest_s, quiet_s / _PATIENCE))
            try:
                await asyncio.wait_for(self._new.wait(), pause_s)
                await asyncio.sleep(self._fastest_s)
            except TimeoutError:
                pass
            try:
                self._compare(await self._unfinished())
            except UpstreamError as error:
                _log.warning("what runs can't be listed", instance=self._instance.account.name, reason=str(error))

    async def _unfinished(self) -> dict[str, str]:
        """Return the status of each unfinished job, by id."""
        found: dict[str, str] = {}
        while True:
            query = (
                ("pending", "true"), ("exclude_params", "true"), ("limit", str(_PAGE)), ("offset", str(len(found)))
            )  # fmt: skip
            page = (await self._instance.ask("GET", "/jobs", query=query)).json()
            listed = page.get("jobs") or ()
            found |= {str(job["id"]): str((job.get("state") or {}).get("status")) for job in listed}
            if not listed or len(found) >= int(page.get("count") or 0):
                return found

    def _compare(self, unfinished: dict[str, str]) -> None:
        for upstream_id, watch in self._watches.items():
            status = unfinished.get(upstream_id, "")
            if status != watch.status:
                watch.status = status
                watch.changed.set()
                self._last_change = time.monotonic()


@contextlib.asynccontextmanager
async def _cancelling(instance: Instance, upstream_id: str, cancelled: asyncio.Event) -> AsyncIterator[None]:
    """Cancel a job at the provider as soon as nobody wants it."""

    async def cancel() -> None:
        await cancelled.wait()
        try:
            await instance.ask("POST", f"/jobs/{upstream_id}/cancel", body=b"")
        except UpstreamError as error:
            _log.info("a job is not cancelled", upstream_id=upstream_id, reason=str(error))  # It has ended by itself.

    task = asyncio.create_task(cancel(), name=f"cancel-{upstream_id}")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
