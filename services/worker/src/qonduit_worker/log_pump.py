"""Carries a driver's output to its log in storage, live, and holds the program back when storage is slow."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from typing import TYPE_CHECKING, Final

from qonduit_service_kit.logs import get_logger

from qonduit_worker import metrics
from qonduit_worker.storage import StorageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from qonduit_worker.storage import Storage

READ_BYTES: Final = 64 * 1024
PIECE_BYTES: Final = 512 * 1024
"""Under load, pieces are joined up to this size."""
MOST_UNCONFIRMED_BYTES: Final = 2 * 1024**2
_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 2.0

_log = get_logger(__name__)


class LogPump:
    """One attempt's log. What is not confirmed is sent again after storage was away: nothing is lost or doubled.

    While more than a bounded number of bytes is unconfirmed nothing more is read, so that the program's pipe
    fills and the program waits.
    """

    def __init__(self, storage: Storage, *, log: str, attempt: int) -> None:
        self._storage = storage
        self._log = log
        self._attempt = attempt
        self._pieces: deque[tuple[int, bytes]] = deque()
        """(offset, bytes) of all that is not confirmed."""
        self._written = 0
        self._confirmed = 0
        self._sent = 0
        self._changed = asyncio.Condition()
        self._flushing = False
        self._sender = asyncio.create_task(self._send())

    async def pump(self, output: asyncio.StreamReader) -> None:
        """Take everything from a stream to its end."""
        while data := await output.read(READ_BYTES):
            await self.write(data)

    async def write(self, data: bytes) -> None:
        """Add bytes to the log; waits while too much is unconfirmed."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._written - self._confirmed < MOST_UNCONFIRMED_BYTES)
            self._pieces.append((self._written, data))
            self._written += len(data)
            self._changed.notify_all()
        metrics.LOG_BYTES.inc(len(data))

    async def note(self, text: str) -> None:
        """Add a line of the system's own."""
        await self.write(f"[qonduit] {text}\n".encode())

    async def note_to_author(self, text: str) -> None:
        """Add a line of the system's own that may name what the program consists of."""
        await self.note(text)

    async def flush(self) -> None:
        """Wait until all that was written is durable.

        Storage confirms many pieces with one write to its disk, a moment later; the end of a stream at once.
        """
        async with self._changed:
            self._flushing = True
            self._changed.notify_all()
            await self._changed.wait_for(lambda: self._confirmed >= self._written or self._sender.done())

    async def close(self, patience_s: float) -> None:
        """Mark the log as complete once all is durable; what storage doesn't take in time is given up.

        Without patience nothing is sent: the attempt was taken for lost, and another may be writing the log.
        """
        try:
            async with asyncio.timeout(patience_s):
                if patience_s:
                    await self.flush()
                    await self._storage.close_log(self._log, self._attempt)
        except (TimeoutError, StorageError) as error:
            lost = self._written - self._confirmed
            _log.warning("log_incomplete", job=self._log, lost_bytes=lost, error=str(error))
        finally:
            self._sender.cancel()
            await asyncio.wait([self._sender])

    async def _send(self) -> None:
        pause = _PAUSE_S
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._confirmed < self._written)
                self._sent = before = self._confirmed
            try:
                async for offset in self._storage.append_log(self._log, self._attempt, self._unsent()):
                    await self._confirm(offset)
            except StorageError as error:
                if not error.transient:
                    await self._give_up(error)
                    return
                _log.info("log_stream_broke", job=self._log, reason=error.reason)
            if self._confirmed > before:
                pause = _PAUSE_S
                continue
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - Jitter is no secret.
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    async def _unsent(self) -> AsyncIterator[tuple[int, bytes]]:
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._sent < self._written or self._flushing)
                if self._sent >= self._written:
                    return  # The end of the stream: all is confirmed without delay.
                offset, piece = self._sent, self._joined()
                self._sent += len(piece)
            yield offset, piece

    def _joined(self) -> bytes:
        parts: list[bytes] = []
        size = 0
        for offset, data in self._pieces:
            if offset < self._sent:
                continue
            if parts and size + len(data) > PIECE_BYTES:
                break
            parts.append(data)
            size += len(data)
        return b"".join(parts)

    async def _confirm(self, offset: int) -> None:
        async with self._changed:
            self._confirmed = max(self._confirmed, offset)
            while self._pieces and self._pieces[0][0] + len(self._pieces[0][1]) <= self._confirmed:
                self._pieces.popleft()
            self._flushing = self._flushing and self._confirmed < self._written
            self._changed.notify_all()

    async def _give_up(self, error: StorageError) -> None:
        """Storage refuses this attempt's log for good: read on, so that the program is not held for ever."""
        _log.warning("log_refused", job=self._log, attempt=self._attempt, reason=error.reason, text=str(error))
        async with self._changed:
            while True:
                self._confirmed = self._written
                self._pieces.clear()
                self._changed.notify_all()
                await self._changed.wait_for(lambda: self._confirmed < self._written)
