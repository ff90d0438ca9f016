"""What a stack says while it runs: one line an event, for people."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import IO, TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

_COLORS: Final = {"good": "\x1b[32m", "bad": "\x1b[31m", "warn": "\x1b[33m", "": ""}
_RESET: Final = "\x1b[0m"
_WIDTH: Final = 11


class Events:
    """Writes each event to the terminal, to the supervisor's log, and to who started it in the background."""

    def __init__(self, log: Path, *, report: IO[str] | None = None, quiet: bool = False) -> None:
        self._log = log.open("a", buffering=1)
        self._report = report
        self._terminal = None if quiet else sys.stdout
        self._color = bool(self._terminal and self._terminal.isatty() and "NO_COLOR" not in os.environ)

    def say(self, source: str, text: str, mood: str = "") -> None:
        """Tell an event; a reader that went away changes nothing."""
        stamp = time.strftime("%H:%M:%S")
        for line in text.splitlines() or [""]:
            plain = f"{stamp}  {source:<{_WIDTH}} {line}"
            self._log.write(plain + "\n")
            if self._terminal is not None:
                colored = f"{stamp}  {source:<{_WIDTH}} {_COLORS[mood]}{line}{_RESET}"
                self._write(self._terminal, (colored if self._color and mood else plain) + "\n")
            if self._report is not None:
                self._write(self._report, plain + "\n")

    def end_report(self, verdict: str) -> None:
        """Tell who started this in the background how it went; they stop listening."""
        if self._report is not None:
            self._write(self._report, f"={verdict}\n")
            with contextlib.suppress(OSError, ValueError):
                self._report.close()
            self._report = None

    def close(self) -> None:
        """Close the log."""
        self._log.close()

    @staticmethod
    def _write(to: IO[str], text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            to.write(text)
            to.flush()
