"""What is still to be sent: written in the transaction that causes it, deleted once it arrived."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

from qonduit_service_kit.messages import Address
from sqlalchemy import Integer, bindparam, delete, func, select

from qonduit_gateway.database.schema import outbox

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Connection

_INSERT = outbox.insert().returning(outbox.c.outbox_id)
_WAITING = (
    select(outbox)
    .where(outbox.c.lane == bindparam("wanted_lane"))
    .order_by(outbox.c.outbox_id)
    .limit(bindparam("most", type_=Integer()))
)
_REMOVE = delete(outbox).where(outbox.c.outbox_id.in_(bindparam("arrived", expanding=True)))


class Lane(StrEnum):
    """Where something goes; one lane that is stuck does not hold up the other."""

    BUS = "bus"
    LOG = "log"


@dataclass(frozen=True, slots=True)
class Outgoing:
    """Something to be sent at least once."""

    lane: Lane
    message_id: str
    to: Address
    type_name: str
    body: bytes
    """For the bus the encoded message, for a log its key."""


Numbered: TypeAlias = tuple[int, Outgoing]
"""A row with its number: those of one gateway are sent in this order."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """How much waits to be sent."""

    rows: int
    oldest_at: float | None


def add(connection: Connection, outgoing: Iterable[Outgoing], *, at: float) -> list[Numbered]:
    """Write rows to be sent once the transaction is committed, and return them with their numbers."""
    return [(_added(connection, each, at), each) for each in outgoing]


def _added(connection: Connection, outgoing: Outgoing, at: float) -> int:
    values = {
        "lane": outgoing.lane.value,
        "message_id": outgoing.message_id,
        "exchange": outgoing.to.exchange,
        "routing_key": outgoing.to.key,
        "type_name": outgoing.type_name,
        "body": outgoing.body,
        "created_at": at,
    }
    number: int = connection.execute(_INSERT, values).scalar_one()
    return number


def waiting(connection: Connection, lane: Lane, *, limit: int) -> list[Numbered]:
    """Return the oldest rows of a lane with their numbers, in the order in which they were written."""
    return [
        (
            row.outbox_id,
            Outgoing(lane, row.message_id, Address(row.exchange, row.routing_key), row.type_name, row.body),
        )
        for row in connection.execute(_WAITING, {"wanted_lane": lane.value, "most": limit})
    ]


def remove(connection: Connection, numbers: Iterable[int]) -> None:
    """Delete rows that have arrived."""
    connection.execute(_REMOVE, {"arrived": list(numbers)})


def backlog(connection: Connection, *lanes: Lane) -> Backlog:
    """Tell how many rows of some lanes (of all, without any) wait, and since when the oldest does."""
    query = select(func.count(), func.min(outbox.c.created_at))
    row = connection.execute(query.where(outbox.c.lane.in_([lane.value for lane in lanes or Lane]))).one()
    return Backlog(row[0], row[1])
