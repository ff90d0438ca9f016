"""The page shows the table that the code runs on."""

from __future__ import annotations

from pathlib import Path

from qonduit_gateway.jobs.diagram import mermaid
from qonduit_gateway.jobs.model import JobState
from qonduit_gateway.jobs.transitions import TABLE

PAGE = Path(__file__).parents[3] / "docs" / "architecture" / "job_states.md"


def test_the_page_shows_the_diagram_of_the_table() -> None:
    assert f"```mermaid\n{mermaid()}```" in PAGE.read_text()


def test_every_state_has_a_row_and_terminal_ones_are_never_left() -> None:
    assert set(TABLE) == set(JobState)
    assert all(not TABLE[state] for state in JobState if state.terminal)
    assert all(TABLE[state] for state in JobState if not state.terminal)
