"""The border: our errors become gRPC statuses here, and nowhere else."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import grpc
from qonduit_service_kit.rpc import ApiError

from qonduit_storage import errors

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Iterator

    from qonduit_storage.metrics import StorageMetrics

T = TypeVar("T")

_CODES: tuple[tuple[type[errors.StorageError], grpc.StatusCode], ...] = (
    (errors.RequestError, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.MissingError, grpc.StatusCode.NOT_FOUND),
    (errors.DamagedError, grpc.StatusCode.DATA_LOSS),
    (errors.DiskFullError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.QuotaError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.IdleError, grpc.StatusCode.DEADLINE_EXCEEDED),
    (errors.StaleAttemptError, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.LogGapError, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.StoppingError, grpc.StatusCode.UNAVAILABLE),
    (errors.StoreUnavailableError, grpc.StatusCode.UNAVAILABLE),
    (errors.UploadLostError, grpc.StatusCode.UNAVAILABLE),
    (errors.UnauthenticatedError, grpc.StatusCode.UNAUTHENTICATED),
    (errors.ForbiddenError, grpc.StatusCode.PERMISSION_DENIED),
)


class Border:
    """Counts refusals and translates them."""

    def __init__(self, metrics: StorageMetrics) -> None:
        self._metrics = metrics

    @contextmanager
    def crossing(self) -> Iterator[None]:
        """Around the whole of a call.

        Raises:
            ApiError: for each StorageError.
        """
        try:
            yield
        except errors.StorageError as error:
            self._metrics.refusals.labels(error.reason).inc()
            raise _api_error(error) from error


def _api_error(error: errors.StorageError) -> ApiError:
    code = next((code for kind, code in _CODES if isinstance(error, kind)), grpc.StatusCode.INTERNAL)
    field = error.field if isinstance(error, errors.RequestError) else ""
    violations = {field: str(error)} if field else {}
    return ApiError(code, error.reason, str(error), metadata=_metadata(error), violations=violations)


def _metadata(error: errors.StorageError) -> dict[str, str]:
    """What a program may want to read of an error, beside its text."""
    if isinstance(error, errors.LogGapError):
        return {"expected_offset": str(error.expected_offset)}
    if isinstance(error, errors.QuotaError):
        return {name: str(number) for name, number in error.numbers.items()}
    return {}


async def timely(messages: AsyncIterable[T], idle_s: float) -> AsyncIterator[T]:
    """The messages of a stream, none of which may keep us waiting too long.

    Raises:
        IdleError: one did.
    """
    iterator = aiter(messages)
    while True:
        try:
            async with asyncio.timeout(idle_s):
                message = await anext(iterator)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            raise errors.IdleError(f"Nothing came for {idle_s:g} s, so the upload was ended. Send it again.") from error
        yield message
