"""Changes of users and of their tokens: each checks, writes, and is audited in one transaction."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
from qonduit_service_kit.errors import ApiError

from qonduit_gateway.api.callers import allowed, token_digest
from qonduit_gateway.database import audit_rows, job_rows, user_rows
from qonduit_gateway.database.audit_rows import OF_PEOPLE, AuditEntry
from qonduit_gateway.database.user_rows import BOOTSTRAP, CREATED, Token

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from qonduit_gateway.database.user_rows import User

MOST_TOKENS = 100
"""Of one user: they are listed in one answer."""
TEXT_LIMIT_CHARS = 500
_LABEL_LIMIT_CHARS = 64
_TOKEN_BYTES = 32
# A name is also the name of a folder of files: it begins with a letter or digit, so it is never "..".
_USER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")


@dataclass(frozen=True, slots=True)
class MadeToken:
    """A token that was made, and what became of its user's others."""

    text: str
    """What its user is told, now and never again."""
    kept: Token
    withdrawn: int
    bootstrap_stays: bool


@dataclass(frozen=True, slots=True)
class UserChanges:
    """What one user changes at one time, in one transaction. Whether they may is checked before."""

    connection: Connection
    actor: str
    at: float

    def create(self, name: str, *, administrator: bool) -> str:
        """Make a user, and return their first token."""
        if not _USER_NAME.fullmatch(name):
            text = "Use 1 to 64 letters, digits, '_', '-', '.' or '@', beginning with a letter or digit."
            raise ApiError(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_USER_NAME", text, violations={"name": text})
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        made = user_rows.create(
            self.connection, name, administrator=administrator, token_digest=token_digest(token), at=self.at
        )
        if not made:
            text = f"There is a user {name!r} already. Choose another name."
            raise ApiError(grpc.StatusCode.ALREADY_EXISTS, "USER_EXISTS", text, metadata={"name": name})
        self._audit("user.create", name, "administrator" if administrator else "")
        return token

    def make_token(self, name: str, label: str, *, replace: bool) -> MadeToken:
        """Make another token for a user; with `replace` it is their only one, but for a bootstrap token."""
        _check_label(label)
        others = self._tokens(name)
        gone = [token for token in others if replace and token.label != BOOTSTRAP]
        if len(others) - len(gone) >= MOST_TOKENS:
            text = f"{name} has {len(others)} tokens, and may have {MOST_TOKENS}. Withdraw some first."
            raise ApiError(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOKEN_LIMIT", text)
        self._remove(name, gone)
        text = secrets.token_urlsafe(_TOKEN_BYTES)
        made = Token(token_digest(text), label, self.at)
        user_rows.add_token(self.connection, name, made)
        self._audit("token.create", name, made.token_id)
        stays = any(token.label == BOOTSTRAP for token in others)
        return MadeToken(text, made, len(gone), bootstrap_stays=stays)

    def withdraw_token(self, name: str, token_id: str) -> None:
        """Withdraw a token of a user, of whom only others may take the last one."""
        tokens = self._tokens(name)
        # Two of one user hardly ever share an id; if they do, both go, which is the safe side.
        gone = [token for token in tokens if token.token_id == token_id]
        if not gone:
            raise _token_not_found(name, token_id)
        if any(token.label == BOOTSTRAP for token in gone):
            text = (
                f"Token {token_id} stands in the file of the gateway's setting ADMIN_TOKEN_FILE and would be back "
                "after its next start. Put a new token into that file and restart the gateway: this one then ends."
            )
            raise ApiError(grpc.StatusCode.FAILED_PRECONDITION, "BOOTSTRAP_TOKEN", text)
        if name == self.actor and len(gone) == len(tokens):
            text = (
                f"Token {token_id} is your last one, and you would be locked out. "
                "Make another one first (`qonduit users token`)."
            )
            raise ApiError(grpc.StatusCode.FAILED_PRECONDITION, "LAST_TOKEN", text)
        self._remove(name, gone)

    def disable(self, name: str, text: str) -> tuple[User, list[str]]:
        """Shut a user out and say why; return them, and which of their jobs are not over: no more are accepted."""
        if len(text) > TEXT_LIMIT_CHARS:
            wrong = f"Say in at most {TEXT_LIMIT_CHARS} characters why: the user is told it."
            raise ApiError(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_TEXT", wrong, violations={"text": wrong})
        if name == self.actor:
            own = "You can't disable yourself: nobody might be left to enable you. Have another administrator do it."
            raise ApiError(grpc.StatusCode.FAILED_PRECONDITION, "OWN_USER", own)
        user = self._set_disabled(name, text)
        self._audit("user.disable", name, text)
        return user, job_rows.active_of(self.connection, name)

    def enable(self, name: str) -> User:
        """Let a user in again."""
        user = self._set_disabled(name, None)
        self._audit("user.enable", name)
        return user

    def _set_disabled(self, name: str, text: str | None) -> User:
        user = user_rows.set_disabled(self.connection, name, text)
        if user is None:
            raise user_not_found(name)
        return user

    def _tokens(self, name: str) -> list[Token]:
        """Return a user's tokens, which nobody else changes until this transaction ends."""
        if user_rows.locked(self.connection, name) is None:
            raise user_not_found(name)
        return user_rows.tokens_of(self.connection, name)

    def _remove(self, name: str, gone: list[Token]) -> None:
        user_rows.remove_tokens(self.connection, gone)
        for token in gone:
            self._audit("token.withdraw", name, token.token_id)

    def _audit(self, action: str, name: str, detail: str = "") -> None:
        audit_rows.add(self.connection, AuditEntry(self.at, self.actor, action, OF_PEOPLE, f"user {name}", detail))


def check_caller(connection: Connection, name: str, digest: str) -> None:
    """Raise ApiError unless a call's token is still good, and keep it so until this transaction ends.

    Else who holds a token that leaked could make another one with it while it is withdrawn.
    """
    user_rows.locked(connection, name)
    allowed(user_rows.by_token(connection, digest))


def user_not_found(name: str) -> ApiError:
    """Return the refusal for a user that is not there."""
    text = f"There is no user {name[:100]!r}. List the users to see which there are."
    return ApiError(grpc.StatusCode.NOT_FOUND, "USER_NOT_FOUND", text, metadata={"name": name[:100]})


def _token_not_found(name: str, token_id: str) -> ApiError:
    text = f"{name} has no token {token_id[:100]!r}. `qonduit users tokens {name}` lists those that there are."
    metadata = {"name": name, "token_id": token_id[:100]}
    return ApiError(grpc.StatusCode.NOT_FOUND, "TOKEN_NOT_FOUND", text, metadata=metadata)


def _check_label(label: str) -> None:
    if len(label) > _LABEL_LIMIT_CHARS or not label.isprintable() or label in {BOOTSTRAP, CREATED}:
        text = f"Use at most {_LABEL_LIMIT_CHARS} printable characters, and neither {BOOTSTRAP!r} nor {CREATED!r}."
        raise ApiError(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_LABEL", text, violations={"label": text})
