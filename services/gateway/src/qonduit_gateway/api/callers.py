"""Who calls: bearer tokens to users, for every RPC but health and reflection."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import inspect
import time
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
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

CHECK_AGAIN_S = 5.0
"""Seconds after which who calls is looked up again in a call that goes on, such as a watch."""
_OPEN_TO_ALL = ("/grpc.health.v1.Health/", "/grpc.reflection.")
_REMEMBER_S = 10.0
_MOST_REMEMBERED = 10_000
_HOW = (
    "Give the one that your administrator gave you, as QONDUIT_TOKEN or in the code (`token=...`); "
    "of a stack of your own, `qonduit up` writes it into the profile, which is read where neither is set."
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


def allowed(user: User | None) -> User:
    """Return whom a token belongs to, if they may call; ApiError if it is nobody's, or they are shut out."""
    if user is None:
        raise ApiError(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID", f"The server does not know this token. {_HOW}")
    if user.disabled_text is not None:
        raise user_disabled(user.name, user.disabled_text)
    return user


def user_disabled(name: str, text: str) -> ApiError:
    """Return the refusal of all that a user calls who is shut out, with the reason that was given."""
    why = f": {text.rstrip('.')}" if text else ""
    told = f"The user {name} is disabled{why}. Ask an administrator to be let in again."
    metadata = {"name": name, "disabled_text": text}
    return ApiError(grpc.StatusCode.PERMISSION_DENIED, "USER_DISABLED", told, metadata=metadata)


def token_digest(token: str) -> str:
    """Return what the database keeps of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def digest_of(context: Any) -> str:
    """Return the digest of the token that a call came with; ApiError where it has none."""
    return token_digest(_token(context))


@dataclass(slots=True, eq=False)
class _Call:
    """A call that is under way."""

    context: Any
    task: asyncio.Task[Any] | None
    began: float
    refusal: ApiError | None = None
    sending: bool = False
    """Whether an answer of a stream is on its way, which waits for as long as the client reads nothing."""

    def end(self, refusal: ApiError) -> None:
        """Have it fail with a refusal, wherever it waits; may be repeated."""
        self.refusal = refusal
        # gRPC tells the client nothing of a call that is canceled while it sends: that one is refused its next answer.
        if self.task is not None and not self.sending:
            self.task.cancel()


_call: ContextVar[_Call] = ContextVar("call")
_NO_CALL = _Call(None, None, 0.0)
"""Stands for one that is open to all."""


def _refusable(stream: Callable[..., AsyncIterator[Any]]) -> Callable[..., AsyncIterator[Any]]:
    async def answers(request: Any, context: Any) -> AsyncIterator[Any]:
        call = _call.get(_NO_CALL)
        async for answer in stream(request, context):
            call.sending = True
            yield answer
            call.sending = False
            if call.refusal is not None:
                raise call.refusal

    return answers


class CallerInterceptor(AroundInterceptor):
    """Lets only known users through, and says UNAVAILABLE where the database can't tell."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._known: dict[str, tuple[User, float]] = {}
        self._calls: set[_Call] = set()

    @asynccontextmanager
    async def around(self, method: str, context: Any) -> AsyncIterator[None]:
        """Find out who calls, then run the RPC."""
        try:
            if method.startswith(_OPEN_TO_ALL):
                yield
                return
            _caller.set(await self._user(context))
            async with self._under_way(context):
                yield
        except DatabaseUnavailableError as error:
            text = f"The database does not answer ({error}). Nothing was lost; try again in a moment."
            raise ApiError(grpc.StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE", text) from error
        except UnstorableError as error:
            text = f"A value in the request can't be kept ({error}). Take out characters that are no text, such as NUL."
            raise ApiError(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_VALUE", text) from error

    def _wrapped(self, inner: Callable[..., Any], method: str, *, streams: bool) -> Callable[..., Any]:
        if streams and inspect.isasyncgenfunction(inner):
            inner = _refusable(inner)
        return super()._wrapped(inner, method, streams=streams)

    def forget(self) -> None:
        """Look users up again: something about one of them, or of their tokens, was changed."""
        # Not cleared: what was looked up before the change may be remembered after it, and then in vain.
        self._known = {}

    async def check_again(self) -> None:
        """End the calls that go on although their token was withdrawn, or their user disabled, since they began.

        Calls that just began are left alone: among them is the one that withdraws its own token.
        """
        since = self._clock() - CHECK_AGAIN_S
        for call in [each for each in self._calls if each.began <= since]:
            try:
                await self._user(call.context)
            except ApiError as refusal:
                if call in self._calls:
                    call.end(refusal)
            except DatabaseUnavailableError:
                return  # Nobody is refused because it can't be told who they are; the next round asks again.

    @asynccontextmanager
    async def _under_way(self, context: Any) -> AsyncIterator[None]:
        call = _Call(context, asyncio.current_task(), self._clock())
        self._calls.add(call)
        _call.set(call)
        try:
            yield
        except asyncio.CancelledError:
            if call.refusal is None or call.task is None:
                raise
            call.task.uncancel()
            raise call.refusal from None
        finally:
            self._calls.discard(call)

    async def _user(self, context: Any) -> User:
        digest = digest_of(context)
        remembered = self._known
        known = remembered.get(digest)
        if known is not None and self._clock() - known[1] < _REMEMBER_S:
            return allowed(known[0])
        user = await self._database.read(lambda connection: user_rows.by_token(connection, digest))
        if user is not None:
            if len(remembered) >= _MOST_REMEMBERED:
                remembered.clear()
            remembered[digest] = (user, self._clock())
        return allowed(user)


def _token(context: Any) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == "authorization":
            text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
            scheme, _, token = text.partition(" ")
            if hmac.compare_digest(scheme.lower().encode(), b"bearer") and token.strip():
                return token.strip()
    raise ApiError(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING", f"The call carries no token. {_HOW}")
