"""Messages that could not be handled, kept for people to look at and to send again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qonduit_service_kit.messages import Address
from sqlalchemy import select, update

from qonduit_gateway.database.rows import inserted
from qonduit_gateway.database.schema import dead_letters

if TYPE_CHECKING:
    from sqlalchemy import Connection, Row


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that could not be handled."""

    fingerprint: str
    """The same for the same death of the same message."""
    queue: str
    address: Address
    type_name: str
    message_id: str
    reason: str
    body: bytes
    received_at: float
    number: int = 0
    replayed_at: float | None = None


def keep(connection: Connection, letter: DeadLetter) -> bool:
    """Keep a dead letter; False when it is here already."""
    return inserted(
        connection,
        dead_letters,
        fingerprint=letter.fingerprint,
        queue=letter.queue,
        exchange=letter.address.exchange,
        routing_key=letter.address.key,
        type_name=letter.type_name,
        message_id=letter.message_id,
        reason=letter.reason,
        body=letter.body,
        received_at=letter.received_at,
    )


def get(connection: Connection, number: int) -> DeadLetter | None:
    """Return one, or None."""
    row = connection.execute(select(dead_letters).where(dead_letters.c.dead_letter_id == number)).one_or_none()
    return None if row is None else _letter(row)


def page(connection: Connection, *, size: int, before: int | None = None) -> list[DeadLetter]:
    """Return dead letters, newest first, below a number."""
    query = select(dead_letters).order_by(dead_letters.c.dead_letter_id.desc()).limit(size)
    if before is not None:
        query = query.where(dead_letters.c.dead_letter_id < before)
    return [_letter(row) for row in connection.execute(query)]


def mark_replayed(connection: Connection, number: int, *, at: float) -> None:
    """Note that one was sent again."""
    connection.execute(update(dead_letters).where(dead_letters.c.dead_letter_id == number).values(replayed_at=at))


def _letter(row: Row[Any]) -> DeadLetter:
    return DeadLetter(
        fingerprint=row.fingerprint,
        queue=row.queue,
        address=Address(row.exchange, row.routing_key),
        type_name=row.type_name,
        message_id=row.message_id,
        reason=row.reason,
        body=row.body,
        received_at=row.received_at,
        number=row.dead_letter_id,
        replayed_at=row.replayed_at,
    )
