"""Providers, and groups of users, in the database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import delete, select

from qonduit_gateway.database.grant_rows import held_by
from qonduit_gateway.database.rows import inserted
from qonduit_gateway.database.schema import grants, group_members, providers, user_groups, users

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider."""

    name: str
    created_at: float


@dataclass(frozen=True, slots=True)
class Group:
    """A group of users."""

    name: str
    created_at: float
    members: tuple[str, ...] = ()


def create(connection: Connection, name: str, *, by: str, at: float) -> bool:
    """Make a provider; False when the name is taken."""
    return inserted(connection, providers, name=name, created_by=by, created_at=at)


def page(connection: Connection, user: str | None, *, size: int, after: str | None = None) -> list[Provider]:
    """Return providers by name, after one: those of which a user holds any grant, all of them with None."""
    query = select(providers.c.name, providers.c.created_at)
    if user is not None:
        query = query.where(providers.c.name.in_(select(grants.c.provider).where(held_by(user))))
    if after is not None:
        query = query.where(providers.c.name > after)
    rows = connection.execute(query.order_by(providers.c.name).limit(size))
    return [Provider(row.name, row.created_at) for row in rows]


def get(connection: Connection, name: str) -> Provider | None:
    """Return a provider."""
    row = connection.execute(select(providers).where(providers.c.name == name)).one_or_none()
    return None if row is None else Provider(row.name, row.created_at)


def lock(connection: Connection, name: str) -> None:
    """Have changes of a provider's grants come one after the other, until this transaction ends."""
    connection.execute(select(providers.c.name).where(providers.c.name == name).with_for_update())


def missing_users(connection: Connection, names: Sequence[str]) -> list[str]:
    """Return those of some names that no user has."""
    there = set(connection.execute(select(users.c.name).where(users.c.name.in_(names))).scalars())
    return [name for name in names if name not in there]


def create_group(connection: Connection, name: str, *, by: str, at: float) -> bool:
    """Make a group; False when the name is taken."""
    return inserted(connection, user_groups, name=name, created_by=by, created_at=at)


def group_exists(connection: Connection, name: str) -> bool:
    """Tell whether there is a group."""
    return connection.execute(select(user_groups.c.name).where(user_groups.c.name == name)).first() is not None


def all_groups(connection: Connection) -> list[Group]:
    """Return the groups by name, with their members."""
    members: dict[str, list[str]] = {}
    for row in connection.execute(select(group_members).order_by(group_members.c.user_name)):
        members.setdefault(row.group_name, []).append(row.user_name)
    rows = connection.execute(select(user_groups).order_by(user_groups.c.name))
    return [Group(row.name, row.created_at, tuple(members.get(row.name, ()))) for row in rows]


def groups_of(connection: Connection, user: str) -> list[Group]:
    """Return the groups that a user is in by name, without their members."""
    mine = select(group_members.c.group_name).where(group_members.c.user_name == user)
    rows = connection.execute(select(user_groups).where(user_groups.c.name.in_(mine)).order_by(user_groups.c.name))
    return [Group(row.name, row.created_at) for row in rows]


def add_member(connection: Connection, group_name: str, user: str) -> bool:
    """Put a user into a group; False when they are in it."""
    return inserted(connection, group_members, group_name=group_name, user_name=user)


def remove_member(connection: Connection, group_name: str, user: str) -> bool:
    """Take a user out of a group; False when they are not in it."""
    gone = delete(group_members).where(group_members.c.group_name == group_name, group_members.c.user_name == user)
    return connection.execute(gone).rowcount > 0
