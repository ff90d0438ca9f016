"""Functions and their versions in the database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, delete, or_, select, update

from qonduit_gateway.database.rows import inserted
from qonduit_gateway.database.schema import function_aliases, function_versions, functions
from qonduit_gateway.functions.model import FunctionSpec, FunctionVersion
from qonduit_gateway.functions.rules import LATEST

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Row

_VERSIONS = select(
    function_versions, functions.c.owner, functions.c.title, functions.c.current_version_id, functions.c.updated_at
).join_from(function_versions, functions)
_CURRENT = functions.c.current_version_id == function_versions.c.version_id


def store(
    connection: Connection, owner: str, spec: FunctionSpec, version: str, artifact: tuple[str, int], *, at: float
) -> tuple[FunctionVersion, bool]:
    """Keep a version (its artifact as digest and bytes), make it the current one, and tell whether it is new."""
    inserted(connection, functions, owner=owner, title=spec.title, updated_at=at)
    mine = (functions.c.owner == owner, functions.c.title == spec.title)
    function_id = connection.execute(select(functions.c.function_id).where(*mine).with_for_update()).scalar_one()
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
    query = _VERSIONS.where(function_versions.c.function_id == function_id, function_versions.c.version == version)
    stored = connection.execute(query).one()
    connection.execute(update(functions).where(*mine).values(current_version_id=stored.version_id, updated_at=at))
    return _version(connection, connection.execute(query).one()), created


def find_by_alias(connection: Connection, owner: str, title: str, alias: str) -> FunctionVersion | None:
    """Return the version that one of the author's own aliases stands for."""
    stands_for = function_aliases.c.version_id == function_versions.c.version_id
    query = _VERSIONS.join(function_aliases, stands_for).where(
        functions.c.owner == owner, functions.c.title == title, function_aliases.c.alias == alias
    )
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


def function_id_of(connection: Connection, owner: str, title: str) -> int | None:
    """Return a function's number in the database."""
    query = select(functions.c.function_id).where(functions.c.owner == owner, functions.c.title == title)
    return connection.execute(query).scalar_one_or_none()


def aliases(connection: Connection, owner: str, title: str) -> list[str]:
    """Return a function's aliases by name, for suggestions."""
    query = select(function_aliases.c.alias).join_from(function_aliases, functions)
    mine = query.where(functions.c.owner == owner, functions.c.title == title)
    return sorted((LATEST, *connection.execute(mine).scalars()))


def find(connection: Connection, owner: str, title: str, prefix: str = "") -> list[FunctionVersion]:
    """Return the current version, or with a prefix the (at most two) versions whose digest begins with it."""
    query = _VERSIONS.where(functions.c.owner == owner, functions.c.title == title)
    if prefix:
        query = query.where(function_versions.c.version.startswith(prefix, autoescape=True)).limit(2)
    else:
        query = query.where(_CURRENT)
    return _versions(connection, connection.execute(query).all())


def titles(connection: Connection, owner: str) -> list[str]:
    """Return the titles of a user's functions, for suggestions."""
    query = select(functions.c.title).where(functions.c.owner == owner).order_by(functions.c.title).limit(10_000)
    return list(connection.execute(query).scalars())


def page(
    connection: Connection, owner: str, *, size: int, before: tuple[float, int] | None = None
) -> list[tuple[FunctionVersion, tuple[float, int]]]:
    """Return current versions, newest upload first, each with the key where a next page would begin."""
    query = _VERSIONS.where(functions.c.owner == owner, _CURRENT)
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
    connection: Connection, owner: str, title: str, *, size: int, before: int | None = None
) -> list[FunctionVersion]:
    """Return versions of one function, newest first, below a version's number."""
    query = _VERSIONS.where(functions.c.owner == owner, functions.c.title == title)
    if before is not None:
        query = query.where(function_versions.c.version_id < before)
    query = query.order_by(function_versions.c.version_id.desc()).limit(size)
    return _versions(connection, connection.execute(query).all())


def _version(connection: Connection, row: Row[Any]) -> FunctionVersion:
    return _versions(connection, [row])[0]


def _versions(connection: Connection, rows: Sequence[Row[Any]]) -> list[FunctionVersion]:
    standing: dict[int, list[str]] = {row.version_id: [] for row in rows}
    query = select(function_aliases).where(function_aliases.c.version_id.in_(standing))
    for alias in connection.execute(query):
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
        owner=row.owner,
        spec=spec,
        version=row.version,
        artifact_digest=row.artifact_digest,
        artifact_bytes=row.artifact_bytes,
        created_at=row.created_at,
        aliases=tuple(sorted([*latest, *aliases])),
    )
