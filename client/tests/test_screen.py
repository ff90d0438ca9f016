"""A followed job on a terminal: its log stays whole above one line of progress."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from qonduit.cli.screen import Screen

if TYPE_CHECKING:
    import pytest


class Terminal(io.StringIO):
    """Both streams, as they arrive on one screen."""

    def isatty(self) -> bool:
        return True

    @property
    def lines(self) -> list[str]:
        """What is seen: not what was erased in a line."""
        return [line.rpartition("\r\x1b[K")[2] for line in self.getvalue().split("\n")]


def test_progress_is_the_last_line_and_the_log_stays_whole_above_it() -> None:
    terminal = Terminal()
    screen = Screen(terminal, terminal)
    screen.log("one\ntwo\n")
    screen.progress("tasks 1/3")
    screen.log("three\n")
    screen.progress("tasks 2/3")
    screen.note("RUNNING: MAPPING")
    assert terminal.lines == ["one", "two", "three", "RUNNING: MAPPING", "tasks 2/3"]
    screen.progress("tasks 3/3")
    screen.close()
    assert terminal.lines == ["one", "two", "three", "RUNNING: MAPPING", "tasks 3/3", ""]


def test_an_unfinished_line_of_the_log_is_not_broken_by_progress() -> None:
    terminal = Terminal()
    screen = Screen(terminal, terminal)
    screen.progress("tasks 1/3")
    screen.log("50%")
    screen.progress("tasks 2/3")
    screen.log(" 100%\n")
    assert terminal.lines == ["50% 100%", "tasks 2/3"]


def test_elsewhere_progress_is_a_line_now_and_then_and_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    now = 1000.0
    screen = Screen(clock=lambda: now)
    for done in range(1000):
        now += 0.01
        screen.progress(f"tasks {done}/1000")
    screen.close()
    screen.close()
    lines = capsys.readouterr().err.splitlines()
    assert (lines[0], lines[-1]) == ("tasks 0/1000", "tasks 999/1000")
    assert len(lines) == 3, "one at once, one after five of the ten seconds, and the last"


def test_a_person_who_left_is_shown_nothing_more(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    screen.log("one\n")
    screen.silence()
    screen.log("two\n")
    screen.note("the log cannot be shown")
    assert capsys.readouterr() == ("one\n", "")
