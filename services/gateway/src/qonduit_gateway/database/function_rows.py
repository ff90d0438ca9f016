"""Functions and their versions in the database."""

from __future__ import annotations

from math import inf, nextafter
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, bindparam, delete, or_, select, update

from qonduit_gateway.database.rows import inserted
from qonduit_gateway.database.schema import function_aliases, function_versions, functions
from qonduit_gateway.functions.model import FunctionName, FunctionSpec, FunctionVersion
from qonduit_gateway.functions.rules import LATEST

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement, Connection, Row

_VERSIONS = select(
    function_versions,
    functions.c.owner,
    functions.c.provider,
    functions.c.title,
    functions.c.current_version_id,
    functions.c.updated_at,
    functions.c.disabled_text,
).join_from(function_versions, functions)
_CURRENT = functions.c.current_version_id == function_versions.c.version_id
_NAMED = functions.c.title == bindparam("wanted_title")
_STANDS_FOR = function_aliases.c.version_id == function_versions.c.version_id
_WITH_ALIASES = _VERSIONS.add_columns(function_aliases.c.alias).outerjoin(function_aliases, _STANDS_FOR)
"""A row for each alias, or one without."""
_CURRENT_OF_OWNER = _WITH_ALIASES.where(functions.c.owner == bindparam("wanted_owner"), _NAMED, _CURRENT)
_CURRENT_OF_PROVIDER = _WITH_ALIASES.where(functions.c.provider == bindparam("wanted_provider"), _NAMED, _CURRENT)
_ALIASES = select(function_aliases).where(function_aliases.c.version_id.in_(bindparam("wanted", expanding=True)))


def store(
    connection: Connection,
    name: FunctionName,
    spec: FunctionSpec,
    version: str,
    artifact: tuple[str, int],
    *,
    at: float,
) -> tuple[FunctionVersion, bool]:
    """Keep a version (its artifact as digest and bytes), make it the current one, and tell whether it is new.

    One that is there already counts as uploaded now: what was the current one until now is the one before it.
    """
    function_id, at = _uploading(connection, name, at)
    created = inserted(
        connection,
        function_versions,
        function_id=function_id,
        version=version,
        entrypoint=spec.entrypoint,
        dependencies=list(spec.dependencies),
        environment=dict(spec.environment),
        description=spec.description,
        version_label=spec.version_label,
        artifact_digest=artifact[0],
        artifact_bytes=artifact[1],
        created_at=at,
        arguments_schema=spec.arguments_schema or None,
    )
    this = and_(function_versions.c.function_id == function_id, function_versions.c.version == version)
    if not created:
        connection.execute(update(function_versions).where(this).values(created_at=at))
    query = _VERSIONS.where(this)
    current = {"current_version_id": connection.execute(query).one().version_id, "updated_at": at}
    connection.execute(update(functions).where(functions.c.function_id == function_id).values(current))
    return _version(connection, connection.execute(query).one()), created


def _uploading(connection: Connection, name: FunctionName, at: float) -> tuple[int, float]:
    """Lock a function, made if there is none, and return its number and the time that an upload gets."""
    first = inserted(
        connection, functions, owner=name.owner or None, provider=name.provider or None, title=name.title, updated_at=at
    )
    query = select(functions.c.function_id, functions.c.updated_at).where(named(name)).with_for_update()
    function_id, last = connection.execute(query).one()
    # Versions are in the order of these times, and the clock of another gateway may be ahead.
    return function_id, at if first else max(at, nextafter(last, inf))


def named(name: FunctionName) -> ColumnElement[bool]:
    """Return what holds for the row of a function alone."""
    whose = functions.c.provider == name.provider if name.provider else functions.c.owner == name.owner
    return and_(whose, functions.c.title == name.title)


def find_by_alias(connection: Connection, name: FunctionName, alias: str) -> FunctionVersion | None:
    """Return the version that one of the author's own aliases stands for."""
    query = _VERSIONS.join(function_aliases, _STANDS_FOR).where(named(name), function_aliases.c.alias == alias)
    row = connection.execute(query).one_or_none()
    return None if row is None else _version(connection, row)


def set_alias(connection: Connection, version_id: int, alias: str) -> FunctionVersion:
    """Have an alias, "latest" or another, stand for a version, and return the version as it is then."""
    query = _VERSIONS.where(function_versions.c.version_id == version_id)
    function_id = connection.execute(query).one().function_id
    mine = functions.c.function_id == function_id
    connection.execute(select(functions.c.function_id).where(mine).with_for_update())
    if alias == LATEST:
        connection.execute(update(functions).where(mine).values(current_version_id=version_id))
    else:
        delete_alias(connection, function_id, alias)
        connection.execute(
            function_aliases.insert().values(function_id=function_id, alias=alias, version_id=version_id)
        )
    return _version(connection, connection.execute(query).one())


def delete_alias(connection: Connection, function_id: int, alias: str) -> bool:
    """Remove an alias; False if there is none."""
    gone = delete(function_aliases).where(
        function_aliases.c.function_id == function_id, function_aliases.c.alias == alias
    )
    return connection.execute(gone).rowcount > 0


def function_id_of(connection: Connection, name: FunctionName) -> int | None:
    """Return a function's number in the database."""
    query = select(functions.c.function_id).where(named(name))
    return connection.execute(query).scalar_one_or_none()


def aliases(connection: Connection, name: FunctionName) -> list[str]:
    """Return a function's aliases by name, for suggestions."""
    query = select(function_aliases.c.alias).join_from(function_aliases, functions)
    return sorted((LATEST, *connection.execute(query.where(named(name))).scalars()))


def find(connection: Connection, name: FunctionName, prefix: str = "") -> list[FunctionVersion]:
    """Return the current version, or with a prefix the (at most two) versions whose digest begins with it."""
    if not prefix:
        rows = _current(connection, name)
        return [_made(rows[0], [row.alias for row in rows if row.alias is not None])] if rows else []
    query = _VERSIONS.where(named(name), function_versions.c.version.startswith(prefix, autoescape=True)).limit(2)
    return _versions(connection, connection.execute(query).all())


def _current(connection: Connection, name: FunctionName) -> Sequence[Row[Any]]:
    if name.provider:
        wanted = {"wanted_provider": name.provider, "wanted_title": name.title}
        return connection.execute(_CURRENT_OF_PROVIDER, wanted).all()
    return connection.execute(_CURRENT_OF_OWNER, {"wanted_owner": name.owner, "wanted_title": name.title}).all()


def is_there(connection: Connection, name: FunctionName) -> bool:
    """Tell whether there is such a function."""
    return function_id_of(connection, name) is not None


def names(connection: Connection, which: ColumnElement[bool]) -> list[str]:
    """Return names of functions as their callers write them, for suggestions."""
    query = select(functions.c.provider, functions.c.title).where(which)
    rows = connection.execute(query.order_by(functions.c.provider, functions.c.title).limit(10_000))
    return [str(FunctionName(row.title, provider=row.provider or "")) for row in rows]


def set_disabled(connection: Connection, name: FunctionName, text: str | None) -> None:
    """Have a function accept no jobs, and say why; with None, accept them again."""
    connection.execute(update(functions).where(named(name)).values(disabled_text=text))


def owned_by(user: str) -> ColumnElement[bool]:
    """Return what holds for a user's own functions."""
    return functions.c.owner == user


def page(
    connection: Connection, which: ColumnElement[bool], *, size: int, before: tuple[float, int] | None = None
) -> list[tuple[FunctionVersion, tuple[float, int]]]:
    """Return current versions, newest upload first, each with the key where a next page would begin."""
    query = _VERSIONS.where(which, _CURRENT)
    if before is not None:
        updated_at, function_id = before
        query = query.where(
            or_(
                functions.c.updated_at < updated_at,
                and_(functions.c.updated_at == updated_at, functions.c.function_id < function_id),
            )
        )
    query = query.order_by(functions.c.updated_at.desc(), functions.c.function_id.desc()).limit(size)
    rows = connection.execute(query).all()
    keys = [(row.updated_at, row.function_id) for row in rows]
    return list(zip(_versions(connection, rows), keys, strict=True))


def versions_page(
    connection: Connection, name: FunctionName, *, size: int, before: tuple[float, int] | None = None
) -> list[FunctionVersion]:
    """Return versions of one function, newest upload first, after the (created_at, version_id) of the last page."""
    at, number = function_versions.c.created_at, function_versions.c.version_id
    query = _VERSIONS.where(named(name))
    if before is not None:
        created_at, version_id = before
        query = query.where(or_(at < created_at, and_(at == created_at, number < version_id)))
    query = query.order_by(at.desc(), number.desc()).limit(size)
    return _versions(connection, connection.execute(query).all())


def _version(connection: Connection, row: Row[Any]) -> FunctionVersion:
    return _versions(connection, [row])[0]


def _versions(connection: Connection, rows: Sequence[Row[Any]]) -> list[FunctionVersion]:
    standing: dict[int, list[str]] = {row.version_id: [] for row in rows}
    for alias in connection.execute(_ALIASES, {"wanted": list(standing)}):
        standing[alias.version_id].append(alias.alias)
    return [_made(row, standing[row.version_id]) for row in rows]


def _made(row: Row[Any], aliases: list[str]) -> FunctionVersion:
    latest = [LATEST] if row.current_version_id == row.version_id else []
    spec = FunctionSpec(
        title=row.title,
        entrypoint=row.entrypoint,
        dependencies=tuple(row.dependencies),
        environment=row.environment,
        description=row.description,
        version_label=row.version_label,
        arguments_schema=row.arguments_schema or "",
    )
    return FunctionVersion(
        version_id=row.version_id,
        name=FunctionName(row.title, row.owner or "", row.provider or ""),
        spec=spec,
        version=row.version,
        artifact_digest=row.artifact_digest,
        artifact_bytes=row.artifact_bytes,
        created_at=row.created_at,
        aliases=tuple(sorted([*latest, *aliases])),
        disabled_text=row.disabled_text or "",
    )
