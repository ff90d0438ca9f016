"""Users and their tokens in the database. Tokens are kept as hashes only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import delete, select, update

from qonduit_gateway.database.rows import inserted
from qonduit_gateway.database.schema import tokens, users

if TYPE_CHECKING:
    from sqlalchemy import Connection

BOOTSTRAP = "bootstrap"


@dataclass(frozen=True, slots=True)
class User:
    """A user."""

    name: str
    administrator: bool
    created_at: float


def create(connection: Connection, name: str, *, administrator: bool, token_digest: str, at: float) -> bool:
    """Make a user with a first token; False, and nothing is changed, when the name is taken."""
    if not inserted(connection, users, name=name, administrator=administrator, created_at=at):
        return False
    connection.execute(tokens.insert().values(digest=token_digest, user_name=name, label="created", created_at=at))
    return True


def bootstrap(connection: Connection, name: str, token_digest: str, *, at: float) -> None:
    """Make sure of an administrator whose only bootstrap token is this one."""
    if not inserted(connection, users, name=name, administrator=True, created_at=at):
        connection.execute(update(users).where(users.c.name == name).values(administrator=True))
    connection.execute(delete(tokens).where(tokens.c.label == BOOTSTRAP, tokens.c.digest != token_digest))
    inserted(connection, tokens, digest=token_digest, user_name=name, label=BOOTSTRAP, created_at=at)


def by_token(connection: Connection, token_digest: str) -> User | None:
    """Return whom a token belongs to."""
    query = select(users).join_from(tokens, users).where(tokens.c.digest == token_digest)
    row = connection.execute(query).one_or_none()
    return None if row is None else User(row.name, row.administrator, row.created_at)


def all_users(connection: Connection) -> list[User]:
    """Return the users by name."""
    rows = connection.execute(select(users).order_by(users.c.name))
    return [User(row.name, row.administrator, row.created_at) for row in rows]
