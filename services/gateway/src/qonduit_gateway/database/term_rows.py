"""Terms of the schedulers' leadership: given once each, strictly rising."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qonduit_gateway.database.schema import scheduler_terms

if TYPE_CHECKING:
    from sqlalchemy import Connection


def begin(connection: Connection, scheduler_id: str, *, at: float) -> int:
    """Begin a new term for a scheduler and return its number."""
    statement = scheduler_terms.insert().values(scheduler_id=scheduler_id, started_at=at)
    return int(connection.execute(statement.returning(scheduler_terms.c.term)).scalar_one())
