"""The two logs of a provider's function: what is meant for the user, and all else, for the provider's people alone.

The program says whom each line is for: one that begins with `[PUBLIC]` is the user's, every other the provider's.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from qonduit_service_kit.spaces import provider_log

from qonduit_worker.log_pump import READ_BYTES, LogPump

if TYPE_CHECKING:
    from qonduit_service_kit.messages import JobSpec

    from qonduit_worker.storage import Storage

LINE_BYTES: Final = 64 * 1024
"""Of a longer line this much is kept until its end comes; then it goes on in the log of its beginning."""
_TAG: Final = re.compile(rb"\[(?:(PUBLIC)|PRIVATE)\] ?", re.IGNORECASE)


def take_tag(line: bytes) -> tuple[bool, bytes]:
    """Return whether a line is for the user, and the line without its tag."""
    tag = _TAG.match(line)
    return (tag[1] is not None, line[tag.end() :]) if tag is not None else (False, line)


def put_tag(line: bytes, *, public: bool) -> bytes:
    """Return a line with the tag that says whom it is for."""
    return (b"[PUBLIC] " if public else b"[PRIVATE] ") + line


@dataclass(slots=True)
class Dealt:
    """Bytes for either log."""

    public: bytearray = field(default_factory=bytearray)
    private: bytearray = field(default_factory=bytearray)

    def of(self, *, public: bool) -> bytearray:
        """Return those for the user's log, or for the provider's."""
        return self.public if public else self.private


class LineDealer:
    """Deals the bytes of one output to two logs by the tags of their lines, whole lines at a time."""

    def __init__(self) -> None:
        self._line = b""
        """The beginning of a line."""
        self._goes_on: bool | None = None
        """Whether the line whose beginning was dealt already is for the user; None when there is none."""

    def feed(self, data: bytes) -> Dealt:
        """Take what was printed; returns the lines that are complete, and the beginning of one that is too long."""
        dealt, text = Dealt(), self._line + data
        end = text.rfind(b"\n") + 1
        self._line = text[end:]
        self._deal_lines(text[:end], dealt)
        if len(self._line) > LINE_BYTES:
            self._deal_beginning(dealt)
        return dealt

    def rest(self) -> Dealt:
        """Return what is left at the end of the output."""
        dealt = Dealt()
        self._deal_beginning(dealt)
        return dealt

    def _deal_lines(self, text: bytes, dealt: Dealt) -> None:
        """Look only at lines that may have a tag: whoever prints nothing but ends of lines must not hold others up."""
        start = 0
        if text and self._goes_on is not None:
            start = text.index(b"\n") + 1
            dealt.of(public=self._goes_on).extend(text[:start])
            self._goes_on = None
        at = start
        while at < len(text):
            tag = _TAG.match(text, at)
            if tag is None:
                at = text.find(b"\n[", at) + 1 or len(text)
                continue
            dealt.private += text[start:at]
            start = at = text.index(b"\n", tag.end()) + 1
            dealt.of(public=tag[1] is not None).extend(text[tag.end() : start])
        dealt.private += text[start:]

    def _deal_beginning(self, dealt: Dealt) -> None:
        line = self._line
        self._goes_on, text = take_tag(line) if self._goes_on is None else (self._goes_on, line)
        dealt.of(public=self._goes_on).extend(text)
        self._line = b""


class SplitLog:
    """Does what a LogPump does, for both logs of an attempt."""

    def __init__(self, user: LogPump, provider: LogPump) -> None:
        self._user = user
        self._provider = provider

    async def pump(self, output: asyncio.StreamReader) -> None:
        """Take everything from a stream to its end."""
        dealer = LineDealer()
        while data := await output.read(READ_BYTES):
            await self._write(dealer.feed(data))
        await self._write(dealer.rest())

    async def write(self, lines: bytes) -> None:
        """Add lines that tasks printed; waits while too much is unconfirmed."""
        dealer = LineDealer()
        await self._write(dealer.feed(lines))
        await self._write(dealer.rest())

    async def _write(self, dealt: Dealt) -> None:
        if dealt.public:
            await self._user.write(bytes(dealt.public))
        if dealt.private:
            await self._provider.write(bytes(dealt.private))

    async def note(self, text: str) -> None:
        """Add a line of the system's own, which both may want to know of."""
        await self._user.note(text)
        await self._provider.note(text)

    async def note_to_author(self, text: str) -> None:
        """Add a line of the system's own that only the provider may read: it may name what the program consists of."""
        await self._provider.note(text)

    async def flush(self) -> None:
        """Wait until all that was written is durable."""
        await asyncio.gather(self._user.flush(), self._provider.flush())

    async def close(self, patience_s: float) -> None:
        """Mark both logs as complete, as LogPump does."""
        await asyncio.gather(self._user.close(patience_s), self._provider.close(patience_s))


def open_log(storage: Storage, spec: JobSpec) -> LogPump | SplitLog:
    """Return what carries the output of an attempt to its log, or to its two logs."""
    user = LogPump(storage, log=spec.job_id, attempt=spec.attempt)
    if not spec.provider:
        return user
    return SplitLog(user, LogPump(storage, log=provider_log(spec.job_id), attempt=spec.attempt))
