"""Deletes what nobody needs any more: jobs whose time is over, and blobs that nothing refers to.

A blob may be needed in the very moment in which it seems to be garbage: whoever is about to refer to it stores it, or
asks for it, before the row that refers to it is committed, and storage notes the time of both. So nothing is deleted
that was touched lately, which storage checks once more as it deletes. A worker tells of a result by RabbitMQ, which may
be away for hours: so what was touched since the oldest job that is not over was accepted is not deleted either.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from qonduit_service_kit.errors import ApiError
from qonduit_service_kit.logs import get_logger

from qonduit_gateway.database import garbage_rows, job_rows
from qonduit_gateway.ledger import JobNotOverError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

    from qonduit_gateway.database.engine import Database
    from qonduit_gateway.ledger import JobLedger
    from qonduit_gateway.storage_client import StorageClient

_AT_ONCE = 20
"""Few, since a store far away takes a while for each, and what is done is noted only then."""
_CLOCKS_DIFFER_S = 60.0
"""The gateway's and storage's, at most."""
_SWEEPS = 24
"""How often all blobs are looked at while one grows old."""
_log = get_logger("collector")


class Collector:
    """Looks for garbage now and then.

    Args:
        database: The book.
        ledger: Deletes jobs.
        storage: Deletes blobs.
        retention_s: Seconds for which jobs that are over are kept; 0 for ever.
        grace_s: A blob that was touched less than so many seconds ago is never deleted.
        unused_s: A blob that neither a job nor a function has is deleted after so many seconds: it is a value of a
            task, or what an upload left that led to no job. More than the longest job takes.
        clock: Seconds since 1970.
    """

    def __init__(
        self,
        database: Database,
        ledger: JobLedger,
        storage: StorageClient,
        *,
        retention_s: float,
        grace_s: float,
        unused_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._storage = storage
        self._retention_s = retention_s
        self._grace_s = grace_s
        self._unused_s = unused_s
        self._clock = clock
        self._swept_at = 0.0

    async def collect(self) -> None:
        """Look once; what storage does not answer for is looked at again the next time."""
        for step in (self._end_retention, self._drop_all, self._sweep_now_and_then):
            try:
                await step()
            except ApiError as error:
                _log.warning("garbage was not collected, trying again later", cause=error.text)

    async def _end_retention(self) -> None:
        if not self._retention_s:
            return
        before = self._clock() - self._retention_s
        ended = await self._database.read(lambda connection: job_rows.ended(connection, before=before, limit=_AT_ONCE))
        for job_id in ended:
            try:
                await self._ledger.delete(job_id)
            except JobNotOverError:
                _log.error("a job that was over is not over any more", job=job_id)
        if ended:
            _log.info("jobs were deleted, their time was over", jobs=len(ended))

    async def _drop_all(self) -> None:
        while await self._drop() == _AT_ONCE:
            pass

    async def _drop(self) -> int:
        """Delete some of what deleted jobs had; a blob that was touched lately is looked at again. Returns how many."""
        now = self._clock()

        def read(connection: Connection) -> tuple[list[str], set[str], float]:
            digests = garbage_rows.dropped(connection, before=now - self._grace_s, limit=_AT_ONCE)
            oldest = job_rows.oldest_active(connection)
            unused_s = self._grace_s if oldest is None else max(self._grace_s, now - oldest + _CLOCKS_DIFFER_S)
            return digests, garbage_rows.in_use(connection, digests), unused_s

        digests, used, unused_s = await self._database.read(read)
        if not digests:
            return 0
        garbage = [digest for digest in digests if digest not in used]
        kept = await self._storage.delete_blobs(garbage, unused_s=unused_s)
        settled = [digest for digest in digests if digest not in kept]

        def note(connection: Connection) -> None:
            garbage_rows.remove(connection, settled)
            garbage_rows.postpone(connection, kept, at=now)

        # A crash before this line looks at them once more.
        await self._database.write(note)
        return len(digests)

    async def _sweep_now_and_then(self) -> None:
        if self._clock() - self._swept_at >= self._unused_s / _SWEEPS:
            await self._sweep()
            self._swept_at = self._clock()

    async def _sweep(self) -> None:
        """Delete what nobody has touched for long, and neither a job nor a function has."""
        async for digests in self._storage.unused_blobs(self._unused_s):
            used = await self._database.read(partial(garbage_rows.in_use, digests=digests))
            garbage = [digest for digest in digests if digest not in used]
            for start in range(0, len(garbage), _AT_ONCE):
                await self._storage.delete_blobs(garbage[start : start + _AT_ONCE], unused_s=self._unused_s)
            if garbage:
                _log.info("blobs that nothing has were deleted", blobs=len(garbage))
