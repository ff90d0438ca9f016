"""Users and their tokens in the database. Tokens are kept as hashes only."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, select, update

from qonduit_gateway.database.rows import inserted
from qonduit_gateway.database.schema import tokens, users
from qonduit_gateway.jobs.model import UserLimit

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection, Row

BOOTSTRAP = "bootstrap"


@dataclass(frozen=True, slots=True)
class User:
    """A user."""

    name: str
    administrator: bool
    created_at: float
    limit: UserLimit = field(default_factory=UserLimit)


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
    return None if row is None else _user(row)


def all_users(connection: Connection) -> list[User]:
    """Return the users by name."""
    rows = connection.execute(select(users).order_by(users.c.name))
    return [_user(row) for row in rows]


def change_limit(connection: Connection, name: str, change: Callable[[UserLimit], UserLimit]) -> User | None:
    """Change a user's limit and return the user; None when there is none of that name."""
    query = select(users).where(users.c.name == name)
    row = connection.execute(query.with_for_update()).one_or_none()
    if row is None:
        return None
    limit = change(_user(row).limit)
    values = {f"limit_{name}": value for name, value in asdict(limit).items()}
    connection.execute(update(users).where(users.c.name == name).values(values))
    return _user(connection.execute(query).one())


def limit_of(row: Row[Any]) -> UserLimit:
    """Return the limit in a row that has a user's columns."""
    return UserLimit(
        row.limit_cpu_millis, row.limit_mem_bytes, row.limit_gpus, row.limit_qpu_seconds, row.limit_file_bytes
    )


def _user(row: Row[Any]) -> User:
    return User(row.name, row.administrator, row.created_at, limit_of(row))
