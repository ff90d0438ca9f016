"""All logs: opened while somebody writes or reads them."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from qonduit_storage.blocking import in_thread
from qonduit_storage.errors import RequestError, StoppingError
from qonduit_storage.logs.log import Log, LogLimits, LogPiece
from qonduit_storage.rules.names import check_log_key
from qonduit_storage.spaces.records import folder_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

    from qonduit_storage.disk import Disk

T = TypeVar("T")


@dataclass(slots=True)
class _Opened:
    loading: asyncio.Task[Log]
    users: int = 0


class LogStore:
    """Keeps logs. A part of the service: stopping it ends who follows or writes, so that the server can stop."""

    def __init__(self, disk: Disk, limits: LogLimits) -> None:
        self._disk = disk
        self._limits = limits
        self._opened: dict[str, _Opened] = {}
        self._stopping = asyncio.Event()

    async def start(self) -> None:
        """Nothing to do: logs are opened when they are asked for."""

    async def stop(self) -> None:
        """Tells everybody who waits for more of a log that there will be none from this process."""
        self._stopping.set()

    @asynccontextmanager
    async def open(self, key: str) -> AsyncIterator[Log]:
        """One log, the same object for everybody who has it open.

        Raises:
            RequestError: this cannot name a log.
        """
        check_log_key(key)
        opened = self._opened.get(key)
        if opened is None:
            opened = self._opened[key] = _Opened(asyncio.create_task(self._load(key)))
        opened.users += 1
        try:
            yield await asyncio.shield(opened.loading)
        finally:
            await self._release(key, opened)

    async def read(self, key: str, offset: int, *, follow: bool, tail_lines: int = 0) -> AsyncIterator[LogPiece]:
        """Streams a log from an offset, or from its last lines on; with ``follow`` until it is closed or deleted.

        A log that nobody wrote is empty.

        Raises:
            RequestError: the name or the offset is wrong.
            StoppingError: the service stops; what was yielded is good.
        """
        async with self.open(key) as log:
            if tail_lines:
                offset = await log.tail_offset(tail_lines)
            begun = False
            while True:
                # Taken before reading, so that a change while we read wakes us at once.
                changed, closed = log.changed, log.closed
                try:
                    piece = await log.read(offset)
                except RequestError:
                    if begun:
                        return  # The offset was good: the log has been deleted since.
                    raise
                begun = True
                if piece.data:
                    yield piece
                    offset = piece.offset + len(piece.data)
                elif closed or not follow:
                    return
                else:
                    await self.until(changed.wait())

    async def until(self, awaited: Awaitable[T]) -> T:
        """Waits for something.

        Raises:
            StoppingError: the service stops.
        """
        stopping = asyncio.ensure_future(self._stopping.wait())
        waiting = asyncio.ensure_future(awaited)
        try:
            await asyncio.wait((waiting, stopping), return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                return waiting.result()
        finally:
            stopping.cancel()
            waiting.cancel()
        raise StoppingError("The storage service is stopping. Connect again in a moment and go on from this offset.")

    async def _load(self, key: str) -> Log:
        folder = folder_name(key)
        log = Log(self._disk, self._disk.root / "logs" / folder[:2] / folder, key, self._limits)
        await in_thread(log.load)
        return log

    async def _release(self, key: str, opened: _Opened) -> None:
        opened.users -= 1
        try:
            if not opened.users and opened.loading.done() and not opened.loading.exception():
                # Whoever opens it next will take what is on disk for durable.
                await opened.loading.result().sync()
        finally:
            # Somebody may have come while the disk was busy.
            if not opened.users and self._opened.get(key) is opened:
                del self._opened[key]
                if opened.loading.done() and not opened.loading.exception():
                    opened.loading.result().close_files()
