"""A writer's stream: pieces go in as they come, and confirmations come out once they are durable, many at a time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qonduit_storage.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from qonduit_storage.logs.log import Log
    from qonduit_storage.logs.store import LogStore


@dataclass(frozen=True, slots=True)
class WriterPiece:
    """Bytes that a writer sends."""

    attempt: int
    writer_offset: int
    data: bytes


class Writing:
    """One stream of one writer."""

    def __init__(self, store: LogStore, log: Log, *, sync_interval_s: float) -> None:
        self._store = store
        self._log = log
        self._sync_interval_s = sync_interval_s
        self._received = 0
        self._news = asyncio.Event()
        self.appended_bytes = 0
        """Bytes that were new."""

    async def confirmations(self, pieces: AsyncIterator[WriterPiece]) -> AsyncIterator[int]:
        """Appends all pieces; yields the writer's offset up to which its bytes are durable.

        What came before a refused piece is confirmed first.

        Raises:
            StaleAttemptError, LogGapError, DiskFullError: as Log.append does.
            StoppingError: the service stops.
        """
        taking = asyncio.create_task(self._take(pieces))
        taking.add_done_callback(lambda _: self._news.set())
        try:
            while not taking.done():
                await self._store.until(self._news.wait())
                self._news.clear()
                # One fsync serves all that comes in an interval; the end of the stream is not kept waiting.
                await asyncio.wait((taking,), timeout=self._sync_interval_s)
                received = self._received
                await self._log.sync()
                yield received
            await taking
        finally:
            taking.cancel()
            await asyncio.wait((taking,))

    async def _take(self, pieces: AsyncIterator[WriterPiece]) -> None:
        async for piece in pieces:
            if piece.writer_offset < 0:
                raise RequestError("The writer's offset is negative.", field="writer_offset")
            self.appended_bytes += await self._log.append(piece.attempt, piece.writer_offset, piece.data)
            self._received = max(self._received, piece.writer_offset + len(piece.data))
            self._news.set()
