"""What tasks print, on its way to the job's log."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import deque
from typing import TYPE_CHECKING, Final

from qonduit_service_kit.messages import INLINE_LIMIT_BYTES, ExecutorOutput

from qonduit_worker.split_log import put_tag, take_tag

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from qonduit_service_kit.messages import ExecutorGranted

MOST_BYTES: Final = 16 * 1024**2
"""Bytes that wait for the log; what comes beyond is dropped, and the log says so."""
_CLOSE_S: Final = 5.0
_MARK: Final = re.compile(rb"\x1eqonduit-task (\d{1,18}) ([^\x1e\x1f\n]{0,200})\x1f")
"""What an executor's process writes before the first line that a task prints, as `qonduit.program.executor` has it."""
_MARK_BYTES: Final = 256
_LINE_BYTES: Final = 4096
"""A line that is longer goes out in pieces, between which lines of other tasks may stand."""


class Prefixer:
    """Puts the number and the name of its task before each line that an executor prints, whole lines at a time.

    Args:
        tagged: Whether each line says first whom it is for, by a tag that it had, or else `[PRIVATE]`. So nothing that
            stands in a name or at the border of two pieces of a line is taken for a tag later.
    """

    def __init__(self, *, tagged: bool = False) -> None:
        self._tagged = tagged
        self._goes_on: bool | None = None
        """Whether the line of which a piece went out is for the user; None when there is none."""
        self._prefix = b""
        self._unread = b""
        self._line = b""

    def feed(self, chunk: bytes) -> bytes:
        """Take what was printed; returns the lines that are complete."""
        text, lines = self._unread + chunk, bytearray()
        start = 0
        for found in _MARK.finditer(text):
            self._take(text[start : found.start()], lines)
            self._end_line(lines)
            self._prefix = b"[task %b %b] " % (found[1], found[2])
            start = found.end()
        # The rest of a mark may be in the next chunk.
        cut = text.rfind(b"\x1e", max(start, len(text) - _MARK_BYTES))
        if cut < 0 or b"\x1f" in text[cut:] or b"\n" in text[cut:]:
            cut = len(text)
        self._take(text[start:cut], lines)
        self._unread = text[cut:]
        return bytes(lines)

    def rest(self) -> bytes:
        """Return what is left at the end of the output."""
        lines = bytearray()
        self._take(self._unread, lines)
        self._end_line(lines)
        return bytes(lines)

    def _take(self, text: bytes, lines: bytearray) -> None:
        *complete, self._line = (self._line + text).split(b"\n")
        if self._tagged:
            for line in complete:
                lines += self._dressed(line)
                self._goes_on = None
        elif complete:
            lines += self._prefix + (b"\n" + self._prefix).join(complete) + b"\n"
        if len(self._line) > _LINE_BYTES:
            lines += self._dressed(self._line)
            self._line = b""

    def _end_line(self, lines: bytearray) -> None:
        if self._line:
            lines += self._dressed(self._line)
            self._line = b""
        self._goes_on = None

    def _dressed(self, line: bytes) -> bytes:
        if not self._tagged:
            return self._prefix + line + b"\n"
        self._goes_on, line = take_tag(line) if self._goes_on is None else (self._goes_on, line)
        return put_tag(self._prefix + line + b"\n", public=self._goes_on)


def whole_lines(lines: bytes, most_bytes: int) -> Iterator[bytes]:
    """Yield lines in pieces of so many bytes, or of one line that is longer: none ends within a line."""
    start = 0
    while len(lines) - start > most_bytes:
        end = (lines.rfind(b"\n", start, start + most_bytes) + 1) or (lines.index(b"\n", start + most_bytes) + 1)
        yield lines[start:end]
        start = end
    if start < len(lines):
        yield lines[start:]


class TaskOutput:
    """Writes to a log that may be slow, and never lets the messages behind the output wait for it.

    All drivers of a worker share its inbox: the output of one job's tasks must not hold up another's cancel.
    """

    def __init__(self, write: Callable[[bytes], Awaitable[None]], note: Callable[[str], Awaitable[None]]) -> None:
        self._write = write
        self._note = note
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
                await self._note(note)


async def carry(
    printed: asyncio.StreamReader, grant: ExecutorGranted, tell: Callable[[ExecutorOutput], Awaitable[None]]
) -> None:
    """Carry what an executor's process prints to the driver's agent, which alone writes the job's log."""
    sequence, prefixer, ended = 0, Prefixer(tagged=bool(grant.provider_space)), False
    while not ended:
        chunk = await printed.read(INLINE_LIMIT_BYTES)
        ended = not chunk
        lines = prefixer.feed(chunk) if chunk else prefixer.rest()
        for part in whole_lines(lines, INLINE_LIMIT_BYTES):
            sequence += 1
            await tell(ExecutorOutput(grant.job_id, grant.attempt, grant.lease_id, sequence, part))
