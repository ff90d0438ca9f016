"""What tasks print, on its way to the job's log."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from qonduit_service_kit.messages import ExecutorOutput

MOST_BYTES: Final = 16 * 1024**2
"""Bytes that wait for the log; what comes beyond is dropped, and the log says so."""
_CLOSE_S: Final = 5.0


class TaskOutput:
    """Writes to a log that may be slow, and never lets the messages behind the output wait for it.

    All drivers of a worker share its inbox: the output of one job's tasks must not hold up another's cancel.
    """

    def __init__(self, write: Callable[[bytes], Awaitable[None]]) -> None:
        self._write = write
        self._seen: dict[str, int] = {}
        self._chunks: deque[bytes] = deque()
        self._bytes = 0
        self._dropped = 0
        self._writer: asyncio.Task[None] | None = None

    def take(self, output: ExecutorOutput) -> None:
        """Add a chunk to what will be written; one that comes twice is dropped."""
        if output.sequence <= self._seen.get(output.lease_id, 0):
            return
        self._seen[output.lease_id] = output.sequence
        if self._bytes + len(output.chunk) > MOST_BYTES:
            self._dropped += len(output.chunk)
            return
        self._chunks.append(output.chunk)
        self._bytes += len(output.chunk)
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_all())

    async def close(self) -> None:
        """Give what waits a moment to be written; safe to call twice."""
        if self._writer is not None and not self._writer.done():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._writer, _CLOSE_S)

    async def _write_all(self) -> None:
        while self._chunks:
            chunk = self._chunks.popleft()
            await self._write(chunk)
            self._bytes -= len(chunk)
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                note = f"{dropped} bytes that tasks printed are missing here: storage took the log too slowly"
                await self._write(f"\n[qonduit] {note}\n".encode())
