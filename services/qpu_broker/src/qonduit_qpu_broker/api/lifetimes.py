"""Whether a program may still change anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qonduit_qpu_broker.ledger import programs
from qonduit_qpu_broker.problems import Conflict

if TYPE_CHECKING:
    import sqlite3

    from qonduit_service_kit.messages import QpuRequest


def refuse_if_over(ledger: sqlite3.Connection, request: QpuRequest) -> None:
    """Raise Conflict for an attempt that is over, and note one that lives.

    Called in the transaction that writes, so that nothing is written behind a program's end.
    """
    if not programs.note_program(ledger, request.job_id, request.attempt, request.user):
        raise Conflict(f"Attempt {request.attempt} of {request.job_id} is over.")
