"""Blobs that deleted jobs had, until it is known that nothing else has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import delete, select, union, update

from qonduit_gateway.database.rows import inserted
from qonduit_gateway.database.schema import dropped_blobs, function_versions, jobs

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from sqlalchemy import Connection


def add(connection: Connection, digests: Iterable[str], *, at: float) -> None:
    """Note blobs that lost a job."""
    for digest in digests:
        inserted(connection, dropped_blobs, digest=digest, dropped_at=at)


def dropped(connection: Connection, *, before: float, limit: int) -> list[str]:
    """Return blobs that lost a job before a time."""
    query = select(dropped_blobs.c.digest).where(dropped_blobs.c.dropped_at <= before)
    return list(connection.execute(query.order_by(dropped_blobs.c.dropped_at).limit(limit)).scalars())


def postpone(connection: Connection, digests: Collection[str], *, at: float) -> None:
    """Have blobs wait as if they had lost their job at a time: others are looked at before."""
    connection.execute(update(dropped_blobs).where(dropped_blobs.c.digest.in_(digests)).values(dropped_at=at))


def remove(connection: Connection, digests: Collection[str]) -> None:
    """Forget blobs of which it is known what became of them."""
    connection.execute(delete(dropped_blobs).where(dropped_blobs.c.digest.in_(digests)))


def in_use(connection: Connection, digests: Collection[str]) -> set[str]:
    """Return those of some blobs that a job or a function has."""
    wanted = list(digests)
    there = jobs.c.deleted_at.is_(None)
    query = union(
        select(jobs.c.arguments_digest).where(jobs.c.arguments_digest.in_(wanted), there),
        select(jobs.c.result_digest).where(jobs.c.result_digest.in_(wanted), there),
        select(function_versions.c.artifact_digest).where(function_versions.c.artifact_digest.in_(wanted)),
    )
    return set(connection.execute(query).scalars())
