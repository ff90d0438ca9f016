"""What is for a provider's own people: to others its jobs, files and uploads look as if there were no such provider."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc
from qonduit_api.v1 import providers_pb2, types_pb2
from qonduit_service_kit.errors import ApiError

from qonduit_gateway.rest import errors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from qonduit_gateway.api.providers import ProviderService

_PEOPLE = frozenset({types_pb2.ROLE_LOGS, types_pb2.ROLE_FILES, types_pb2.ROLE_ADMIN})


class Providers:
    """Knows a provider's people."""

    def __init__(self, providers: ProviderService) -> None:
        self._providers = providers

    @asynccontextmanager
    async def people(self, name: str) -> AsyncIterator[None]:
        """Run what those may do who are of the provider of a function."""
        try:
            yield
        except ApiError as error:
            provider = name.partition("/")[0]
            unknown = error.reason == "FUNCTION_NOT_FOUND" and not await self._has(provider)
            if unknown or error.reason in {"ROLE_MISSING", "PROVIDER_NOT_FOUND"}:
                text = errors.unknown_provider(provider)
                metadata = {"provider": provider}
                raise ApiError(grpc.StatusCode.NOT_FOUND, "PROVIDER_NOT_FOUND", text, metadata=metadata) from error
            raise

    async def _has(self, provider: str) -> bool:
        """Whether the caller is of a provider, and so is told which of its functions are there."""
        try:
            answer = await self._providers.GetProvider(providers_pb2.GetProviderRequest(name=provider), None)
        except ApiError:
            return False
        return not _PEOPLE.isdisjoint(answer.provider.roles)
