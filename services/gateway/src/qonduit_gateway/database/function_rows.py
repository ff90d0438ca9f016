"""Functions and their versions in the database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, or_, select, update

from qonduit_gateway.database.rows import inserted
from qonduit_gateway.database.schema import function_versions, functions
from qonduit_gateway.functions.model import FunctionSpec, FunctionVersion

if TYPE_CHECKING:
    from sqlalchemy import Connection, Row

_VERSIONS = select(function_versions, functions.c.owner, functions.c.title).join_from(function_versions, functions)
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
    )
    query = _VERSIONS.where(function_versions.c.function_id == function_id, function_versions.c.version == version)
    stored = _version(connection.execute(query).one())
    connection.execute(update(functions).where(*mine).values(current_version_id=stored.version_id, updated_at=at))
    return stored, created


def find(connection: Connection, owner: str, title: str, prefix: str = "") -> list[FunctionVersion]:
    """Return the current version, or with a prefix the (at most two) versions whose digest begins with it."""
    query = _VERSIONS.where(functions.c.owner == owner, functions.c.title == title)
    if prefix:
        query = query.where(function_versions.c.version.startswith(prefix, autoescape=True)).limit(2)
    else:
        query = query.where(_CURRENT)
    return [_version(row) for row in connection.execute(query)]


def titles(connection: Connection, owner: str) -> list[str]:
    """Return the titles of a user's functions, for suggestions."""
    query = select(functions.c.title).where(functions.c.owner == owner).order_by(functions.c.title).limit(10_000)
    return list(connection.execute(query).scalars())


def page(
    connection: Connection, owner: str, *, size: int, before: tuple[float, int] | None = None
) -> list[tuple[FunctionVersion, tuple[float, int]]]:
    """Return current versions, newest upload first, each with the key where a next page would begin."""
    query = _VERSIONS.add_columns(functions.c.updated_at).where(functions.c.owner == owner, _CURRENT)
    if before is not None:
        updated_at, function_id = before
        query = query.where(
            or_(
                functions.c.updated_at < updated_at,
                and_(functions.c.updated_at == updated_at, functions.c.function_id < function_id),
            )
        )
    query = query.order_by(functions.c.updated_at.desc(), functions.c.function_id.desc()).limit(size)
    return [(_version(row), (row.updated_at, row.function_id)) for row in connection.execute(query)]


def versions_page(
    connection: Connection, owner: str, title: str, *, size: int, before: int | None = None
) -> list[FunctionVersion]:
    """Return versions of one function, newest first, below a version's number."""
    query = _VERSIONS.where(functions.c.owner == owner, functions.c.title == title)
    if before is not None:
        query = query.where(function_versions.c.version_id < before)
    query = query.order_by(function_versions.c.version_id.desc()).limit(size)
    return [_version(row) for row in connection.execute(query)]


def _version(row: Row[Any]) -> FunctionVersion:
    spec = FunctionSpec(
        title=row.title,
        entrypoint=row.entrypoint,
        dependencies=tuple(row.dependencies),
        environment=row.environment,
        description=row.description,
        version_label=row.version_label,
    )
    return FunctionVersion(
        version_id=row.version_id,
        owner=row.owner,
        spec=spec,
        version=row.version,
        artifact_digest=row.artifact_digest,
        artifact_bytes=row.artifact_bytes,
        created_at=row.created_at,
    )
