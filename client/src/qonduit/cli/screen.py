"""A job's log and the lines about it, above one line of progress."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable

_ERASE: Final = "\r\x1b[K"
_PAUSE_S: Final = 5.0
"""Between two lines of progress where a line can't be written over."""


class Screen:
    """Prints the log on stdout and what is said about the job on stderr, from any thread.

    On a terminal the progress is the last line, written over as it changes. Elsewhere it is a line now and then.
    """

    def __init__(
        self, out: TextIO | None = None, err: TextIO | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._out, self._err = out or sys.stdout, err or sys.stderr
        self._lock = threading.Lock()
        self._live = self._err.isatty()
        self._progress = ""
        self._said = ""
        self._say_again_at = 0.0
        self._at_line_start = True
        self._silent = False

    def log(self, piece: str) -> None:
        """Print a piece of the log."""
        with self._lock:
            if self._silent:
                return
            self._erase()
            self._out.write(piece)
            self._out.flush()
            self._at_line_start = piece.endswith("\n")
            self._draw()

    def note(self, text: str) -> None:
        """Print a line about the job."""
        with self._lock:
            if self._silent:
                return
            self._erase()
            self._write(text + "\n")
            self._draw()

    def progress(self, text: str) -> None:
        """Set the line of progress."""
        with self._lock:
            self._progress = text
            if self._live:
                self._erase()
                self._draw()
            elif text != self._said and self._clock() >= self._say_again_at:
                self._say()

    def close(self) -> None:
        """Leave the last progress behind, as a line like others."""
        with self._lock:
            self._erase()
            if self._progress and self._progress != self._said:
                self._say()
            self._progress = ""

    def silence(self) -> None:
        """Print nothing more, whoever still reads the log: what follows is said to a person who left."""
        with self._lock:
            self._silent = True

    def _say(self) -> None:
        self._said, self._say_again_at = self._progress, self._clock() + _PAUSE_S
        self._write(self._progress + "\n")

    def _erase(self) -> None:
        if self._live and self._at_line_start and self._progress:
            self._write(_ERASE)

    def _draw(self) -> None:
        # Behind an unfinished line of the log it would stand in the way of the rest of that line.
        if self._live and self._at_line_start and self._progress:
            self._write(self._progress)

    def _write(self, text: str) -> None:
        self._err.write(text)
        self._err.flush()
