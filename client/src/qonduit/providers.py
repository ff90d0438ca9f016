"""Providers: who publishes functions to others, who may do what with them, and who did what."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING, Any

from qonduit_api.v1 import providers_pb2 as pb

from qonduit.functions import full_name, name_of
from qonduit.roles import role_of, role_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime

    from google.protobuf.timestamp_pb2 import Timestamp

    from qonduit.connection import Connection, Services
    from qonduit.functions import AnyFunction

_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider of functions."""

    name: str
    created: datetime
    roles: tuple[str, ...]
    """What the user may do with all of its functions: "READ", "RUN", "TRIAL", "LOGS", "FILES", "ADMIN"."""


@dataclass(frozen=True, slots=True)
class Grant:
    """Who may do what, and where."""

    name: str
    """The provider, for all of its functions, or "provider/title"."""
    grantee: str
    """"user ada", "group chemists" or "everyone"."""
    role: str
    granted_by: str
    granted: datetime


@dataclass(frozen=True, slots=True)
class Group:
    """A group of users."""

    name: str
    members: tuple[str, ...]
    """Told to administrators alone."""
    created: datetime


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Something that somebody did."""

    time: datetime
    actor: str
    action: str
    """"grant.add", "function.upload", ..."""
    name: str
    """The provider, or "provider/title"; empty for what was done to a group or a user."""
    subject: str
    detail: str


class Providers:
    """The providers of one server. Every call raises QonduitError, as those of the client do.

    What the user may not see is told to be not there: ProviderNotFoundError and FunctionNotFoundError stand for both.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def create(self, name: str, admins: Iterable[str]) -> Provider:
        """Make a provider that some users administer from then on; for administrators of the installation.

        Raises:
            ConflictError: There is one of that name.
            InvalidRequestError: The name can't be one; the text says why.
            NotFoundError: There is no such user.
        """
        request = pb.CreateProviderRequest(name=name, admins=admins)
        return _provider(
            self._connection.call(lambda to: to.providers.CreateProvider, request, idempotent=False).provider
        )

    def all(self) -> list[Provider]:
        """Return the providers of which the user may see anything, by name."""
        pages = self._pages(lambda to: to.providers.ListProviders, pb.ListProvidersRequest(page_size=_PAGE))
        return [_provider(each) for page in pages for each in page.providers]

    def get(self, name: str) -> Provider:
        """Return a provider; ProviderNotFoundError if there is none of which the user may see anything."""
        return _provider(
            self._connection.call(lambda to: to.providers.GetProvider, pb.GetProviderRequest(name=name)).provider
        )

    def grant(
        self,
        name: str,
        role: str,
        *,
        user: str | None = None,
        group: str | None = None,
        everyone: bool = False,
    ) -> Grant:
        """Grant a role; again, it changes nothing. It takes the role ADMIN there.

        Args:
            name: A provider, for all of its functions, or "provider/title".
            role: "READ", "RUN", "TRIAL", "LOGS", "FILES" or "ADMIN".
            user: To this user.
            group: To whoever is in this group when they call.
            everyone: To every user, of READ, RUN and TRIAL.

        Raises:
            ValueError: There is no such role, or it is not said to whom.
            ProviderNotFoundError, FunctionNotFoundError: There is none that the user may see.
            NotFoundError: There is no such user or group.
            RoleMissingError: The user does not administer it.
            InvalidRequestError: There can be no such grant; the text says why.
        """
        request = pb.GrantRequest(name=name, role=role_of(role), **_grantee(user, group, everyone=everyone))
        return _grant(self._connection.call(lambda to: to.providers.Grant, request).grant)

    def revoke(
        self,
        name: str,
        role: str,
        *,
        user: str | None = None,
        group: str | None = None,
        everyone: bool = False,
    ) -> None:
        """Take a role back, from the next call on; jobs that were accepted go on. Args are those of `grant`.

        Raises:
            GrantNotFoundError: It is not granted.
            ConflictError: Nobody would administer the provider any more.
        """
        request = pb.RevokeRequest(name=name, role=role_of(role), **_grantee(user, group, everyone=everyone))
        # Not again by itself: who repeats it after a lost answer would be told that there is none.
        self._connection.call(lambda to: to.providers.Revoke, request, idempotent=False)

    def grants(self, name: str) -> list[Grant]:
        """Return all that a provider granted, or what holds for "provider/title" alone; it takes ADMIN there."""
        pages = self._pages(lambda to: to.providers.ListGrants, pb.ListGrantsRequest(name=name, page_size=_PAGE))
        return [_grant(each) for page in pages for each in page.grants]

    def disable(self, function: AnyFunction, text: str) -> None:
        """Have a function accept no jobs, and tell users this text; jobs that were accepted go on. It takes ADMIN."""
        request = pb.DisableFunctionRequest(function=name_of(function), text=text)
        self._connection.call(lambda to: to.providers.DisableFunction, request)

    def enable(self, function: AnyFunction) -> None:
        """Have a function accept jobs again; it takes the role ADMIN."""
        request = pb.EnableFunctionRequest(function=name_of(function))
        self._connection.call(lambda to: to.providers.EnableFunction, request)

    def groups(self) -> list[Group]:
        """Return the groups: all to administrators, to others their own, without members."""
        answer = self._connection.call(lambda to: to.providers.ListGroups, pb.ListGroupsRequest())
        return [_group(each) for each in answer.groups]

    def create_group(self, name: str) -> Group:
        """Make a group of users; for administrators of the installation."""
        request = pb.CreateGroupRequest(name=name)
        return _group(self._connection.call(lambda to: to.providers.CreateGroup, request, idempotent=False).group)

    def add_member(self, group: str, user: str) -> None:
        """Put a user into a group; again, it changes nothing. For administrators of the installation."""
        request = pb.AddGroupMemberRequest(group=group, user=user)
        self._connection.call(lambda to: to.providers.AddGroupMember, request)

    def remove_member(self, group: str, user: str) -> None:
        """Take a user out of a group; for administrators of the installation."""
        request = pb.RemoveGroupMemberRequest(group=group, user=user)
        self._connection.call(lambda to: to.providers.RemoveGroupMember, request, idempotent=False)

    def audit(self, name: str = "", *, limit: int = 100) -> list[AuditEntry]:
        """Return who did what with a provider or "provider/title", newest first; it takes the role ADMIN there.

        Without a name it is what was done to groups and users, for administrators of the installation.
        """
        found: list[AuditEntry] = []
        request = pb.ListAuditEntriesRequest(name=name, page_size=min(limit, _PAGE))
        for page in self._pages(lambda to: to.providers.ListAuditEntries, request):
            found += [_audit_entry(each) for each in page.entries]
            if len(found) >= limit:
                break
        return found[:limit]

    def _pages(self, select: Callable[[Services], Any], request: Any) -> Iterable[Any]:
        while True:
            page = self._connection.call(select, request)
            yield page
            request.page_token = page.next_page_token
            if not page.next_page_token:
                return


def _grantee(user: str | None, group: str | None, *, everyone: bool) -> dict[str, Any]:
    if [user is not None, group is not None, everyone].count(True) != 1:
        raise ValueError("Say to whom: user=..., group=... or everyone=True.")
    if everyone:
        return {"grantee_kind": pb.GRANTEE_KIND_EVERYONE}
    kind = pb.GRANTEE_KIND_GROUP if user is None else pb.GRANTEE_KIND_USER
    return {"grantee_kind": kind, "grantee": group if user is None else user}


def _provider(provider: pb.Provider) -> Provider:
    return Provider(provider.name, _utc(provider.create_time), tuple(role_text(role) for role in provider.roles))


def _grant(grant: pb.AccessGrant) -> Grant:
    known = pb.GranteeKind.DESCRIPTOR.values_by_number.get(grant.grantee_kind)
    kind = known.name.removeprefix("GRANTEE_KIND_").lower() if known else f"kind {grant.grantee_kind}"
    return Grant(
        full_name(grant.function_title, grant.provider) if grant.function_title else grant.provider,
        f"{kind} {grant.grantee}".rstrip(),
        role_text(grant.role),
        grant.granted_by,
        _utc(grant.grant_time),
    )


def _group(group: pb.Group) -> Group:
    return Group(group.name, tuple(group.members), _utc(group.create_time))


def _audit_entry(entry: pb.AuditEntry) -> AuditEntry:
    name = full_name(entry.function_title, entry.provider) if entry.function_title else entry.provider
    return AuditEntry(_utc(entry.time), entry.actor, entry.action, name, entry.subject, entry.detail)


def _utc(moment: Timestamp) -> datetime:
    return moment.ToDatetime(tzinfo=UTC)
