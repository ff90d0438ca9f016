"""Who may do what with providers' functions, in the database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import String, and_, bindparam, delete, exists, func, or_, select, tuple_

from qonduit_gateway.database.function_rows import owned_by
from qonduit_gateway.database.rows import inserted
from qonduit_gateway.database.schema import functions, grants, group_members
from qonduit_gateway.providers.access import Access, Grant, Grantee, GranteeKind, Place, Role, access_at

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import BindParameter, ColumnElement, Connection, Row

_KEY = (grants.c.function_title, grants.c.grantee_kind, grants.c.grantee, grants.c.role)


@dataclass(frozen=True, slots=True)
class KeptGrant:
    """A grant, and who granted it when."""

    grant: Grant
    by: str
    at: float

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Where it stands among those of its provider."""
        grant = self.grant
        return grant.place.title, grant.grantee.kind.value, grant.grantee.name, grant.role.value


def held_by(user: str | BindParameter[str]) -> ColumnElement[bool]:
    """Return what holds for grants to a user, to the groups that they are in now, and to everyone."""
    groups = select(group_members.c.group_name).where(group_members.c.user_name == user)
    return or_(
        grants.c.grantee_kind == GranteeKind.EVERYONE.value,
        and_(grants.c.grantee_kind == GranteeKind.USER.value, grants.c.grantee == user),
        and_(grants.c.grantee_kind == GranteeKind.GROUP.value, grants.c.grantee.in_(groups)),
    )


_HELD = select(grants).where(
    grants.c.provider.in_(bindparam("wanted_providers", expanding=True)),
    held_by(bindparam("wanted_user", type_=String())),
)


def visible_to(user: str, provider: str = "") -> ColumnElement[bool]:
    """Return what holds for functions of providers, or of one, that a user may see: any role is enough."""
    holds = (grants.c.provider == functions.c.provider, grants.c.function_title.in_(("", functions.c.title)))
    seen = exists().where(*holds, held_by(user))
    return and_(functions.c.provider == provider, seen) if provider else seen


def functions_of(user: str, *, own: bool, of_providers: bool) -> ColumnElement[bool]:
    """Return what holds for a user's own functions, for those of providers that they may see, or for both."""
    chosen = [owned_by(user)] if own else []
    return or_(*chosen, *([visible_to(user)] if of_providers else []))


def held(connection: Connection, user: str, providers: Iterable[str]) -> list[Grant]:
    """Return what a user holds at some providers."""
    wanted = {"wanted_providers": list(providers), "wanted_user": user}
    return [_grant(row) for row in connection.execute(_HELD, wanted)]


def access_of(connection: Connection, user: str, place: Place) -> Access:
    """Return what a user may do at a place."""
    return access_at(place, held(connection, user, [place.provider]))


def add(connection: Connection, grant: Grant, *, by: str, at: float) -> KeptGrant | None:
    """Keep a grant; None when it is kept already."""
    new = inserted(connection, grants, **_columns(grant), granted_by=by, granted_at=at)
    return KeptGrant(grant, by, at) if new else None


def find(connection: Connection, grant: Grant) -> KeptGrant | None:
    """Return a grant as it is kept."""
    row = connection.execute(select(grants).where(_same(grant))).one_or_none()
    return None if row is None else _kept(row)


def remove(connection: Connection, grant: Grant) -> bool:
    """Take a grant back; False when there is none such."""
    return connection.execute(delete(grants).where(_same(grant))).rowcount > 0


def admins_of_all(connection: Connection, provider: str) -> int:
    """Count the grants of ADMIN for all of a provider."""
    query = select(func.count()).select_from(grants)
    of_all = (grants.c.provider == provider, grants.c.function_title == "", grants.c.role == Role.ADMIN.value)
    return int(connection.execute(query.where(*of_all)).scalar_one())


def page(
    connection: Connection, place: Place, *, size: int, after: tuple[str, str, str, str] | None = None
) -> list[KeptGrant]:
    """Return a provider's grants, or those for one function alone, in order, after one."""
    query = select(grants).where(grants.c.provider == place.provider)
    if place.title:
        query = query.where(grants.c.function_title == place.title)
    if after is not None:
        query = query.where(tuple_(*_KEY) > after)
    return [_kept(row) for row in connection.execute(query.order_by(*_KEY).limit(size))]


def _same(grant: Grant) -> ColumnElement[bool]:
    return and_(*(grants.c[name] == value for name, value in _columns(grant).items()))


def _columns(grant: Grant) -> dict[str, str]:
    return {
        "provider": grant.place.provider,
        "function_title": grant.place.title,
        "grantee_kind": grant.grantee.kind.value,
        "grantee": grant.grantee.name,
        "role": grant.role.value,
    }


def _grant(row: Row[Any]) -> Grant:
    place = Place(row.provider, row.function_title)
    return Grant(place, Grantee(GranteeKind(row.grantee_kind), row.grantee), Role(row.role))


def _kept(row: Row[Any]) -> KeptGrant:
    return KeptGrant(_grant(row), row.granted_by, row.granted_at)
