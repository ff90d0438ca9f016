"""Marks in an executor's output that tell its agent which task the lines after them come from."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import time
from typing import TextIO

_PAUSE_S = 0.002
"""A task that begins later than this after the last mark gets one at once: then what it prints past Python is marked,
too. Of many tiny tasks only those that print get a mark."""


class Marker:
    """Writes a mark before the first thing that a task prints."""

    def __init__(self) -> None:
        self._mark = b""
        self._marked_at = 0.0
        sys.stdout = _Marking(sys.stdout, self)
        sys.stderr = _Marking(sys.stderr, self)

    def begin(self, number: int, name: str) -> None:
        """Note which task comes now."""
        clean = "".join(character if character.isprintable() else "?" for character in name)
        self._mark = b"\x1eqonduit-task %d %b\x1f" % (number, clean.encode()[:200])
        if time.monotonic() - self._marked_at > _PAUSE_S:
            self.write()

    def write(self) -> None:
        """Write the mark, once a task."""
        if self._mark:
            mark, self._mark = self._mark, b""
            with contextlib.suppress(OSError):
                os.write(1, mark)
            self._marked_at = time.monotonic()


class _Marking(io.TextIOWrapper):
    """Standard output or error, with marks."""

    def __init__(self, stream: TextIO, marker: Marker) -> None:
        super().__init__(stream.buffer, encoding="utf-8", errors="replace", line_buffering=True, write_through=True)
        self._marker = marker
        self._stream = stream  # Kept alive: it would close the buffer that both share.

    def write(self, text: str) -> int:
        self._marker.write()
        return super().write(text)
