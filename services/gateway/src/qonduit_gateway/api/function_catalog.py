"""Finds the version of a function that callers mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
from qonduit_service_kit.errors import ApiError

from qonduit_gateway.api import provider_checks
from qonduit_gateway.database import function_rows
from qonduit_gateway.functions.model import FunctionName
from qonduit_gateway.functions.rules import LATEST, names_digest
from qonduit_gateway.providers.access import Action

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from qonduit_gateway.database.engine import Database
    from qonduit_gateway.functions.model import FunctionVersion
    from qonduit_gateway.providers.access import Access

_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Found:
    """A version of a function, and what the caller may do with it."""

    version: FunctionVersion
    access: Access


class FunctionCatalog:
    """Finds functions for callers."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, user: str, name: str, version: str = "", action: Action = Action.SEE) -> Found:
        """Return what `look_up` returns, in a transaction of its own: grants are looked up anew each time."""
        return await self._database.read(lambda connection: look_up(connection, user, name, version, action))


def look_up(connection: Connection, user: str, name: str, version: str, action: Action) -> Found:
    """Return the version that an alias, a digest or its beginning names, the latest without one.

    "name@version" as name is the same as both apart.

    Raises:
        ApiError: NOT_FOUND (FUNCTION_NOT_FOUND) with close matches, INVALID_ARGUMENT (INVALID_VERSION),
            PERMISSION_DENIED (ROLE_MISSING) when the user may see it and not do this,
            FAILED_PRECONDITION (FUNCTION_DISABLED) when it is to run and takes no jobs.
    """
    wanted, version, access, found = _look(connection, user, name, version)
    if not found:
        raise _not_found(connection, user, wanted, version, access)
    provider_checks.check(access, wanted.place, action)
    if len(found) > 1:
        raise _invalid(f"Several versions of {str(wanted)!r} begin with {version}. Give more digits.")
    if action is Action.RUN and found[0].disabled_text:
        raise _disabled(found[0])
    return Found(found[0], access)


def runnable(connection: Connection, user: str, name: str, version: str) -> Found | None:
    """Return what `look_up` returns of what is to run; None where it would raise, as to find its words takes long."""
    _, _, access, found = _look(connection, user, name, version)
    if len(found) == 1 and access.allows(Action.RUN) and not found[0].disabled_text:
        return Found(found[0], access)
    return None


def _look(
    connection: Connection, user: str, name: str, version: str
) -> tuple[FunctionName, str, Access, list[FunctionVersion]]:
    """Return what a name means: the function, the version's own name, the caller's access, and what they see of it."""
    if not version:
        name, _, version = name.partition("@")
    wanted = FunctionName.of(user, name)
    access = provider_checks.access_to(connection, user, wanted)
    return wanted, version, access, _find(connection, wanted, version) if access.allows(Action.SEE) else []


def _find(connection: Connection, name: FunctionName, version: str) -> list[FunctionVersion]:
    if not version or version == LATEST:
        return function_rows.find(connection, name)
    if names_digest(version):
        return function_rows.find(connection, name, version)
    found = function_rows.find_by_alias(connection, name, version)
    return [] if found is None else [found]


def _not_found(connection: Connection, user: str, name: FunctionName, version: str, access: Access) -> ApiError:
    if not (access.allows(Action.SEE) and function_rows.is_there(connection, name)):
        return provider_checks.function_not_found(connection, user, name, version)
    if not names_digest(version):
        aliases = function_rows.aliases(connection, name)
        return _invalid(
            f"{version[:100]!r} names no version of {str(name)!r}: give an alias ({', '.join(aliases[:_SHOWN])}), or a "
            "version's digest, or its first 8 digits or more."
        )
    return ApiError(
        grpc.StatusCode.NOT_FOUND,
        "FUNCTION_NOT_FOUND",
        f"Function {str(name)!r} has no version {version}. List its versions to see which there are.",
        metadata={"function_title": str(name), "function_version": version},
    )


def _disabled(version: FunctionVersion) -> ApiError:
    name = str(version.name)
    return ApiError(
        grpc.StatusCode.FAILED_PRECONDITION,
        "FUNCTION_DISABLED",
        f"Function {name!r} takes no jobs for now. Its provider says: {version.disabled_text}",
        metadata={"function_title": name, "disabled_text": version.disabled_text},
    )


def _invalid(text: str) -> ApiError:
    return ApiError(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_VERSION", text, violations={"version": text})
