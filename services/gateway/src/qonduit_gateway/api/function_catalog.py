"""Finds the version of a function that callers mean."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

import grpc
from qonduit_service_kit.errors import ApiError

from qonduit_gateway.database import function_rows
from qonduit_gateway.functions.rules import LATEST, names_digest

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from qonduit_gateway.database.engine import Database
    from qonduit_gateway.functions.model import FunctionVersion

_TITLES_COMPARED = 200
_TITLE_COMPARED_CHARS = 255
_SHOWN = 10


class FunctionCatalog:
    """Finds functions for callers."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, owner: str, title: str, version: str) -> FunctionVersion:
        """Return the version that an alias, a digest or its beginning names, the latest without one.

        "title@version" as title is the same as both apart.

        Raises:
            ApiError: NOT_FOUND (FUNCTION_NOT_FOUND) with close matches, INVALID_ARGUMENT (INVALID_VERSION).
        """
        if not version:
            title, _, version = title.partition("@")
        found = await self._database.read(lambda connection: _find(connection, owner, title, version))
        if len(found) == 1:
            return found[0]
        if found:
            raise _invalid(f"Several versions of {title!r} begin with {version}. Give more digits.")
        raise await self._not_found(owner, title, version)

    async def _not_found(self, owner: str, title: str, version: str) -> ApiError:
        titles = await self._database.read(lambda connection: function_rows.titles(connection, owner))
        if title not in titles:
            text = f"There is no function {title!r}. {_suggestion(title, titles)}"
        elif names_digest(version):
            text = f"Function {title!r} has no version {version}. List its versions to see which there are."
        else:
            aliases = await self._database.read(lambda connection: function_rows.aliases(connection, owner, title))
            return _invalid(
                f"{version[:100]!r} names no version of {title!r}: give an alias ({', '.join(aliases[:_SHOWN])}), or a "
                "version's digest, or its first 8 digits or more."
            )
        return ApiError(
            grpc.StatusCode.NOT_FOUND,
            "FUNCTION_NOT_FOUND",
            text,
            metadata={"function_title": title, "function_version": version},
        )


def _find(connection: Connection, owner: str, title: str, version: str) -> list[FunctionVersion]:
    if not version or version == LATEST:
        return function_rows.find(connection, owner, title)
    if names_digest(version):
        return function_rows.find(connection, owner, title, version)
    found = function_rows.find_by_alias(connection, owner, title, version)
    return [] if found is None else [found]


def _invalid(text: str) -> ApiError:
    return ApiError(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_VERSION", text, violations={"version": text})


def _suggestion(title: str, titles: list[str]) -> str:
    # Comparing takes time with the product of all lengths, in which nobody else would be served.
    compared = titles[:_TITLES_COMPARED] if len(title) <= _TITLE_COMPARED_CHARS else []
    close = difflib.get_close_matches(title, compared, n=3, cutoff=0.6)
    if close:
        return f"Did you mean {' or '.join(repr(each) for each in close)}?"
    if not titles:
        return "You have uploaded none yet: upload it first."
    return "Upload it first, or list your functions to see what there is."
