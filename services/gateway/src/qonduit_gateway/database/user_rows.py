"""Users and their tokens in the database. Tokens are kept as hashes only."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, delete, select, update

from qonduit_gateway.database.rows import inserted
from qonduit_gateway.database.schema import tokens, users
from qonduit_gateway.jobs.model import UserLimit

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from sqlalchemy import Connection, Row

BOOTSTRAP = "bootstrap"
CREATED = "created"
_ID_CHARS = 8
# The name is no part of what changes, so nobody waits who only adds a row that refers to a user.
_LOCKED = select(users).where(users.c.name == bindparam("wanted")).with_for_update(key_share=True)


@dataclass(frozen=True, slots=True)
class User:
    """A user."""

    name: str
    administrator: bool
    created_at: float
    limit: UserLimit = field(default_factory=UserLimit)
    disabled_text: str | None = None
    """Why they are shut out, which may be empty; None if they are not."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token of a user, as far as it is known here."""

    digest: str
    label: str
    created_at: float

    @property
    def token_id(self) -> str:
        """What names it among its user's, and gives nothing of it away."""
        return self.digest[:_ID_CHARS]


def create(connection: Connection, name: str, *, administrator: bool, token_digest: str, at: float) -> bool:
    """Make a user with a first token; False, and nothing is changed, when the name is taken."""
    if not inserted(connection, users, name=name, administrator=administrator, created_at=at):
        return False
    add_token(connection, name, Token(token_digest, CREATED, at))
    return True


def bootstrap(connection: Connection, name: str, token_digest: str, *, at: float) -> None:
    """Make sure of an administrator who is not shut out, and whose only bootstrap token is this one."""
    if not inserted(connection, users, name=name, administrator=True, created_at=at):
        connection.execute(update(users).where(users.c.name == name).values(administrator=True, disabled_text=None))
    connection.execute(delete(tokens).where(tokens.c.label == BOOTSTRAP, tokens.c.digest != token_digest))
    if not inserted(connection, tokens, digest=token_digest, user_name=name, label=BOOTSTRAP, created_at=at):
        # It may have been made as one of many, and from now on it is back after each start.
        put = update(tokens).where(tokens.c.digest == token_digest)
        connection.execute(put.values(user_name=name, label=BOOTSTRAP))


def by_token(connection: Connection, token_digest: str) -> User | None:
    """Return whom a token belongs to."""
    query = select(users).join_from(tokens, users).where(tokens.c.digest == token_digest)
    row = connection.execute(query).one_or_none()
    return None if row is None else _user(row)


def tokens_of(connection: Connection, name: str) -> list[Token]:
    """Return a user's tokens, oldest first."""
    query = select(tokens).where(tokens.c.user_name == name).order_by(tokens.c.created_at, tokens.c.digest)
    return [Token(row.digest, row.label, row.created_at) for row in connection.execute(query)]


def add_token(connection: Connection, name: str, token: Token) -> None:
    """Keep a token of a user."""
    values = {"digest": token.digest, "label": token.label, "created_at": token.created_at}
    connection.execute(tokens.insert().values(user_name=name, **values))


def remove_tokens(connection: Connection, gone: Collection[Token]) -> None:
    """Withdraw tokens."""
    connection.execute(delete(tokens).where(tokens.c.digest.in_([token.digest for token in gone])))


def find(connection: Connection, name: str) -> User | None:
    """Return a user."""
    row = connection.execute(select(users).where(users.c.name == name)).one_or_none()
    return None if row is None else _user(row)


def all_users(connection: Connection) -> list[User]:
    """Return the users by name."""
    rows = connection.execute(select(users).order_by(users.c.name))
    return [_user(row) for row in rows]


def change_limit(connection: Connection, name: str, change: Callable[[UserLimit], UserLimit]) -> User | None:
    """Change a user's limit and return the user; None when there is none of that name."""
    user = locked(connection, name)
    if user is None:
        return None
    limit = change(user.limit)
    values = {f"limit_{name}": value for name, value in asdict(limit).items()}
    connection.execute(update(users).where(users.c.name == name).values(values))
    return replace(user, limit=limit)


def set_disabled(connection: Connection, name: str, text: str | None) -> User | None:
    """Shut a user out, or let them in again with None, and return the user; None when there is none of that name."""
    user = locked(connection, name)
    if user is None:
        return None
    connection.execute(update(users).where(users.c.name == name).values(disabled_text=text))
    return replace(user, disabled_text=text)


def locked(connection: Connection, name: str) -> User | None:
    """Return a user; until this transaction ends nobody else gets them this way, or changes them."""
    row = connection.execute(_LOCKED, {"wanted": name}).one_or_none()
    return None if row is None else _user(row)


def limit_of(row: Row[Any]) -> UserLimit:
    """Return the limit in a row that has a user's columns."""
    return UserLimit(**{each.name: getattr(row, f"limit_{each.name}") for each in fields(UserLimit)})


def _user(row: Row[Any]) -> User:
    return User(row.name, row.administrator, row.created_at, limit_of(row), row.disabled_text)
