"""Who calls: bearer tokens to users, for every RPC but health and reflection."""

from __future__ import annotations

import hashlib
import hmac
import time
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import grpc
from qonduit_service_kit.errors import ApiError
from qonduit_service_kit.interceptors import AroundInterceptor

from qonduit_gateway.database import user_rows
from qonduit_gateway.database.engine import DatabaseUnavailableError, UnstorableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from qonduit_gateway.database.engine import Database
    from qonduit_gateway.database.user_rows import User

_OPEN_TO_ALL = ("/grpc.health.v1.Health/", "/grpc.reflection.")
_REMEMBER_S = 10.0
_MOST_REMEMBERED = 10_000
_HOW = (
    "`qonduit up` writes a profile with a token that the client finds by itself; "
    "elsewhere put the token your administrator gave you into QONDUIT_TOKEN."
)

_caller: ContextVar[User] = ContextVar("caller")


def caller() -> User:
    """Return the user whose RPC is running; LookupError outside of one."""
    return _caller.get()


def administrator() -> User:
    """Return the caller if they administer; ApiError PERMISSION_DENIED otherwise."""
    user = caller()
    if not user.administrator:
        raise ApiError(
            grpc.StatusCode.PERMISSION_DENIED, "NOT_ADMINISTRATOR", f"{user.name} is no administrator; ask one."
        )
    return user


def token_digest(token: str) -> str:
    """Return what the database keeps of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


class CallerInterceptor(AroundInterceptor):
    """Lets only known users through, and says UNAVAILABLE where the database can't tell."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._known: dict[str, tuple[User, float]] = {}

    @asynccontextmanager
    async def around(self, method: str, context: Any) -> AsyncIterator[None]:
        """Find out who calls, then run the RPC."""
        try:
            if not method.startswith(_OPEN_TO_ALL):
                _caller.set(await self._user(context))
            yield
        except DatabaseUnavailableError as error:
            text = f"The database does not answer ({error}). Nothing was lost; try again in a moment."
            raise ApiError(grpc.StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE", text) from error
        except UnstorableError as error:
            text = f"A value in the request can't be kept ({error}). Take out characters that are no text, such as NUL."
            raise ApiError(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_VALUE", text) from error

    def forget(self) -> None:
        """Look users up again: something about one of them was changed."""
        self._known.clear()

    async def _user(self, context: Any) -> User:
        digest = token_digest(_token(context))
        known = self._known.get(digest)
        if known is not None and self._clock() - known[1] < _REMEMBER_S:
            return known[0]
        user = await self._database.read(lambda connection: user_rows.by_token(connection, digest))
        if user is None:
            raise ApiError(
                grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID", f"The server does not know this token. {_HOW}"
            )
        if len(self._known) >= _MOST_REMEMBERED:
            self._known.clear()
        self._known[digest] = (user, self._clock())
        return user


def _token(context: Any) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == "authorization":
            text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
            scheme, _, token = text.partition(" ")
            if hmac.compare_digest(scheme.lower().encode(), b"bearer") and token.strip():
                return token.strip()
    raise ApiError(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING", f"The call carries no token. {_HOW}")
