"""One log: who may append what, what is durable, and who is told.

A writer counts its own bytes from 0. Its attempt starts at a known offset of the log, and nothing else is ever
written between its bytes, so its count is always ``end - attempt_start``: it needs no record of its own, and after a
crash it follows from the sizes of the files.

Durability: an offset is confirmed only after fsync. A writer keeps what is not confirmed, and sends it again after a
reconnect; what is here already is dropped. Readers see bytes at once, also those that a power cut would still lose.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qonduit_storage.blocking import in_thread
from qonduit_storage.errors import LogGapError, RequestError, StaleAttemptError
from qonduit_storage.logs.notes import NOTE_LIMIT_BYTES, dropped_note
from qonduit_storage.logs.segments import Segments
from qonduit_storage.logs.state import LogState

if TYPE_CHECKING:
    from pathlib import Path

    from qonduit_storage.disk import Disk

READ_BYTES = 256 * 1024
_LINE_SEARCH_BYTES = 4096


@dataclass(frozen=True, slots=True)
class LogPiece:
    """Bytes of a log, and the offset of the first."""

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class LogLimits:
    """How much of a log is kept, in files of which size."""

    cap_bytes: int
    segment_bytes: int


class Log:
    """An open log. Its folder is made by the first write: who reads a log that nobody wrote leaves no trace."""

    def __init__(self, disk: Disk, folder: Path, key: str, limits: LogLimits) -> None:
        self._disk = disk
        self._state_path = folder / "state.json"
        self._cap_bytes = limits.cap_bytes
        self._segments = Segments(folder, segment_bytes=limits.segment_bytes, cap_bytes=limits.cap_bytes)
        self._state = LogState(key)
        self._durable_end = 0
        self._changing = asyncio.Lock()
        self.changed = asyncio.Event()
        """Set at the next change; a new event takes its place then."""

    def load(self) -> None:
        """Reads what is on disk."""
        if self._state_path.exists():
            self._state = LogState.from_json(self._state_path.read_bytes())
        self._segments.load(empty_at=self._state.attempt_start)
        # A power cut may take bytes of an older attempt that nobody was promised; then this attempt starts there.
        start = min(self._state.attempt_start, self._segments.end)
        self._state = replace(self._state, attempt_start=start)

    def close_files(self) -> None:
        """Lets go of the files; safe to call twice."""
        self._segments.close()

    @property
    def closed(self) -> bool:
        """Whether the log is complete."""
        return self._state.closed

    async def append(self, attempt: int, writer_offset: int, data: bytes) -> int:
        """Appends what is not here yet; tells how many bytes that were.

        Raises:
            StaleAttemptError: a newer attempt writes this log.
            LogGapError: bytes before these are missing.
            DiskFullError: there is no room; the log is as before.
        """
        async with self._changing:
            self._check_attempt(attempt)
            written = self._segments.end - self._state.attempt_start if attempt == self._state.attempt else 0
            if not 0 <= writer_offset <= written:
                raise LogGapError(
                    f"Bytes {written:,} to {writer_offset:,} of attempt {attempt} never came. Send them first.",
                    expected_offset=written,
                )
            new = data[written - writer_offset :]
            # Pieces that come again after a reconnect end here, and do not open a closed log.
            if new:
                await self._begin(attempt)
                await self._write(new)
            return len(new)

    async def sync(self) -> None:
        """Makes durable what was appended before the call."""
        async with self._changing:
            await self._sync()

    async def close(self, attempt: int = 0) -> None:
        """Marks the log as complete; followers end. Attempt 0 stands for who decides when a job is over.

        Raises:
            StaleAttemptError: a newer attempt writes this log.
        """
        async with self._changing:
            if attempt:
                self._check_attempt(attempt)
            if not self._state.closed:
                await self._sync()
                await self._change(replace(self._state, closed=True))

    async def delete(self) -> None:
        """Deletes the log: it is empty and complete from now on.

        May be repeated; a crash in the middle leaves a part of it, which the next call deletes.
        """
        async with self._changing:
            await in_thread(self._segments.delete)
            self._state = LogState(self._state.log, closed=True)
            self._durable_end = self._segments.end
            self.tell()

    async def read(self, offset: int) -> LogPiece:
        """The next bytes from an offset; empty at the end.

        Where the bytes asked for were dropped, a one-line note takes the place of the last of them: it ends just where
        the kept bytes begin, so that ``offset + len(data)`` is always the offset to go on from.

        Raises:
            RequestError: the offset is negative or beyond the end.
        """
        return await in_thread(self._read, offset)

    async def tail_offset(self, lines: int) -> int:
        """Where the last so many lines begin, of those that are kept."""
        return await in_thread(self._tail_offset, lines)

    def _tail_offset(self, lines: int) -> int:
        with self._segments.lock:
            end = self._segments.end
            while end > self._segments.start:
                begin = max(self._segments.start, end - READ_BYTES)
                piece = self._segments.read_all(begin, end)
                # The newline at the very end ends the last line, and begins none.
                at = len(piece) - (end == self._segments.end)
                found = piece.count(b"\n", 0, at)
                if found < lines:
                    lines, end = lines - found, begin
                    continue
                for _ in range(lines):
                    at = piece.rfind(b"\n", 0, at)
                return begin + at + 1
            return self._segments.start

    def _read(self, offset: int) -> LogPiece:
        with self._segments.lock:
            if not 0 <= offset <= self._segments.end:
                raise RequestError(
                    f"The offset {offset:,} is outside: the log has {self._segments.end:,} bytes.", field="offset"
                )
            if offset >= self._segments.start:
                return LogPiece(offset, self._segments.read(offset, READ_BYTES))
            start = self._line_start(max(self._segments.start, offset + NOTE_LIMIT_BYTES))
            note = dropped_note(start - offset, self._cap_bytes)
            return LogPiece(start - len(note), note)

    def _line_start(self, offset: int) -> int:
        """The start of the first whole line from an offset on, if one is near."""
        newline = self._segments.read(offset, _LINE_SEARCH_BYTES).find(b"\n")
        return min(offset + newline + 1, self._segments.end)

    def _check_attempt(self, attempt: int) -> None:
        if attempt < self._state.attempt:
            raise StaleAttemptError(
                f"Attempt {self._state.attempt} writes this log now. Attempt {attempt} must stop; this is not kept."
            )

    async def _begin(self, attempt: int) -> None:
        """Takes note of a new attempt, or of a log that goes on; durable before its first byte is written."""
        if attempt > self._state.attempt:
            await self._sync()  # Its start would otherwise lie behind bytes that a power cut takes back.
            start = self._segments.end
            await self._change(replace(self._state, attempt=attempt, attempt_start=start, closed=False))
        elif self._state.closed or not self._state_path.exists():
            await self._change(replace(self._state, closed=False))

    async def _sync(self) -> None:
        end = self._segments.end
        if end > self._durable_end:
            await in_thread(self._segments.sync)
            self._durable_end = end

    async def _write(self, new: bytes) -> None:
        self._disk.check_room(len(new))
        await in_thread(self._segments.append, new)
        self.tell()

    async def _change(self, state: LogState) -> None:
        await in_thread(self._disk.write_record, self._state_path, state.to_json())
        self._state = state
        self.tell()

    def tell(self) -> None:
        """Wakes who waits for ``changed``."""
        self.changed.set()
        self.changed = asyncio.Event()
