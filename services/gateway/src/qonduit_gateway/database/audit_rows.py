"""Who did what with providers, groups and users, in the database.

Entries are written in the transaction of what they tell, and stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import select

from qonduit_gateway.database.schema import audit_entries
from qonduit_gateway.providers.access import Place

if TYPE_CHECKING:
    from sqlalchemy import Connection

OF_PEOPLE = Place("")
"""Where what is done to groups and to users is kept."""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Something that somebody did."""

    at: float
    actor: str
    action: str
    place: Place
    subject: str = ""
    detail: str = ""
    number: int = 0


def add(connection: Connection, entry: AuditEntry) -> None:
    """Keep an entry."""
    connection.execute(
        audit_entries.insert().values(
            at=entry.at,
            actor=entry.actor,
            action=entry.action,
            provider=entry.place.provider,
            function_title=entry.place.title,
            subject=entry.subject,
            detail=entry.detail,
        )
    )


def page(connection: Connection, place: Place, *, size: int, before: int | None = None) -> list[AuditEntry]:
    """Return what was done to a provider, or to one function, newest first, below an entry's number."""
    query = select(audit_entries).where(audit_entries.c.provider == place.provider)
    if place.title:
        query = query.where(audit_entries.c.function_title == place.title)
    if before is not None:
        query = query.where(audit_entries.c.entry_id < before)
    rows = connection.execute(query.order_by(audit_entries.c.entry_id.desc()).limit(size))
    return [
        AuditEntry(
            row.at,
            row.actor,
            row.action,
            Place(row.provider, row.function_title),
            row.subject,
            row.detail,
            row.entry_id,
        )
        for row in rows
    ]
