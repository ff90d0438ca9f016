"""Which job a caller's idempotency key made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import delete, select

from qonduit_gateway.database.rows import inserted
from qonduit_gateway.database.schema import idempotency

if TYPE_CHECKING:
    from sqlalchemy import Connection


@dataclass(frozen=True, slots=True)
class Claim:
    """A key, what was asked for under it, and the job it made."""

    owner: str
    key: str
    request_hash: str
    job_id: str


def claim(connection: Connection, wanted: Claim, *, at: float) -> Claim:
    """Take a key; returns the claim that holds it, which is an older one when the key was used before.

    On PostgreSQL a second caller waits here until the first one's transaction ends.
    """
    if inserted(
        connection,
        idempotency,
        owner=wanted.owner,
        key=wanted.key,
        request_hash=wanted.request_hash,
        job_id=wanted.job_id,
        created_at=at,
    ):
        return wanted
    held = find(connection, wanted)
    if held is None:
        raise RuntimeError(f"the idempotency key {wanted.key!r} was freed while it was taken")
    return held


def find(connection: Connection, wanted: Claim) -> Claim | None:
    """Return the claim that holds a key."""
    query = select(idempotency).where(idempotency.c.owner == wanted.owner, idempotency.c.key == wanted.key)
    row = connection.execute(query).one_or_none()
    return None if row is None else Claim(row.owner, row.key, row.request_hash, row.job_id)


def forget(connection: Connection, owner: str, job_id: str) -> None:
    """Free the key that made a job."""
    mine = (idempotency.c.owner == owner, idempotency.c.job_id == job_id)
    connection.execute(delete(idempotency).where(*mine))
