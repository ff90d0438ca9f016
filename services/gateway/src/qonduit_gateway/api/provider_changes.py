"""Changes of providers, grants and groups: each checks, writes, and is audited in one transaction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
from qonduit_service_kit.errors import ApiError

from qonduit_gateway.api.provider_checks import require
from qonduit_gateway.database import audit_rows, function_rows, grant_rows, provider_rows
from qonduit_gateway.database.audit_rows import OF_PEOPLE, AuditEntry
from qonduit_gateway.functions.model import FunctionName
from qonduit_gateway.functions.rules import broken_name_rule
from qonduit_gateway.providers.access import Action, Grant, Grantee, GranteeKind, Place, Role

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from qonduit_gateway.database.grant_rows import KeptGrant
    from qonduit_gateway.database.provider_rows import Group, Provider

TEXT_LIMIT_CHARS = 500


@dataclass(frozen=True, slots=True)
class Changes:
    """What one user changes at one time, in one transaction."""

    connection: Connection
    actor: str
    at: float

    def create_provider(self, name: str, admins: Sequence[str]) -> Provider:
        """Make a provider whose administrators are these users."""
        _check_name(name, "provider", "INVALID_PROVIDER")
        if not admins:
            text = "Name at least one user who administers the provider."
            raise ApiError(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_PROVIDER", text, violations={"admins": text})
        self._check_users(admins)
        if not provider_rows.create(self.connection, name, by=self.actor, at=self.at):
            text = f"There is a provider {name!r} already. Choose another name."
            raise ApiError(grpc.StatusCode.ALREADY_EXISTS, "PROVIDER_EXISTS", text, metadata={"provider": name})
        self._audit("provider.create", Place(name))
        for user in dict.fromkeys(admins):
            grant = Grant(Place(name), Grantee(GranteeKind.USER, user), Role.ADMIN)
            grant_rows.add(self.connection, grant, by=self.actor, at=self.at)
            self._audit("grant.add", grant.place, str(grant.grantee), grant.role.value)
        return provider_rows.Provider(name, self.at)

    def grant(self, grant: Grant) -> tuple[KeptGrant, bool]:
        """Keep a grant, and tell whether it is new."""
        provider_rows.lock(self.connection, grant.place.provider)
        require(self.connection, self.actor, grant.place, Action.MANAGE)
        if grant.grantee.kind is GranteeKind.USER:
            self._check_users([grant.grantee.name])
        elif grant.grantee.kind is GranteeKind.GROUP:
            self._check_group(grant.grantee.name)
        kept = grant_rows.add(self.connection, grant, by=self.actor, at=self.at)
        if kept is not None:
            self._audit("grant.add", grant.place, str(grant.grantee), grant.role.value)
            return kept, True
        before = grant_rows.find(self.connection, grant)
        if before is None:
            raise RuntimeError(f"the grant {grant} was revoked while it was kept")
        return before, False

    def revoke(self, grant: Grant) -> None:
        """Take a grant back."""
        provider_rows.lock(self.connection, grant.place.provider)
        require(self.connection, self.actor, grant.place, Action.MANAGE)
        if not grant_rows.remove(self.connection, grant):
            text = (
                f"{grant.role.value} at {str(grant.place)!r} is not granted to {grant.grantee}. "
                "List the grants to see which there are."
            )
            raise ApiError(grpc.StatusCode.NOT_FOUND, "GRANT_NOT_FOUND", text)
        if not grant_rows.admins_of_all(self.connection, grant.place.provider):
            text = f"Nobody would administer {grant.place.provider!r} any more. Grant ADMIN to somebody else first."
            raise ApiError(grpc.StatusCode.FAILED_PRECONDITION, "LAST_ADMIN", text)
        self._audit("grant.remove", grant.place, str(grant.grantee), grant.role.value)

    def set_disabled(self, place: Place, text: str | None) -> None:
        """Have a function accept no jobs, and say why; with None, accept them again."""
        require(self.connection, self.actor, place, Action.MANAGE)
        function_rows.set_disabled(self.connection, FunctionName(place.title, provider=place.provider), text)
        self._audit("function.enable" if text is None else "function.disable", place, detail=text or "")

    def create_group(self, name: str) -> Group:
        """Make a group."""
        _check_name(name, "group", "INVALID_GROUP")
        if not provider_rows.create_group(self.connection, name, by=self.actor, at=self.at):
            text = f"There is a group {name!r} already. Choose another name."
            raise ApiError(grpc.StatusCode.ALREADY_EXISTS, "GROUP_EXISTS", text, metadata={"group": name})
        self._audit("group.create", OF_PEOPLE, f"group {name}")
        return provider_rows.Group(name, self.at)

    def add_member(self, group: str, user: str) -> None:
        """Put a user into a group."""
        self._check_group(group)
        self._check_users([user])
        if provider_rows.add_member(self.connection, group, user):
            self._audit("group.add", OF_PEOPLE, f"user {user}", f"group {group}")

    def remove_member(self, group: str, user: str) -> None:
        """Take a user out of a group."""
        self._check_group(group)
        if not provider_rows.remove_member(self.connection, group, user):
            text = f"User {user[:100]!r} is not in the group {group!r}. List the groups to see who is."
            raise ApiError(grpc.StatusCode.NOT_FOUND, "MEMBER_NOT_FOUND", text, metadata={"name": user[:100]})
        self._audit("group.remove", OF_PEOPLE, f"user {user}", f"group {group}")

    def _check_users(self, names: Sequence[str]) -> None:
        for name in provider_rows.missing_users(self.connection, names):
            text = f"There is no user {name[:100]!r}. Ask an administrator of the installation for the name."
            raise ApiError(grpc.StatusCode.NOT_FOUND, "USER_NOT_FOUND", text, metadata={"name": name[:100]})

    def _check_group(self, name: str) -> None:
        if not provider_rows.group_exists(self.connection, name):
            text = f"There is no group {name[:100]!r}. Administrators of the installation make groups."
            raise ApiError(grpc.StatusCode.NOT_FOUND, "GROUP_NOT_FOUND", text, metadata={"group": name[:100]})

    def _audit(self, action: str, place: Place, subject: str = "", detail: str = "") -> None:
        audit_rows.add(self.connection, AuditEntry(self.at, self.actor, action, place, subject, detail))


def _check_name(name: str, what: str, reason: str) -> None:
    if wrong := broken_name_rule(name):
        text = f"{name[:100]!r} can't be the name of a {what}. {wrong}"
        raise ApiError(grpc.StatusCode.INVALID_ARGUMENT, reason, text, violations={"name": wrong})
