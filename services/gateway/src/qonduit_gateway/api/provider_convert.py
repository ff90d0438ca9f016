"""From the gateway's values to the messages of ProviderService, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from qonduit_api.v1 import providers_pb2, types_pb2
from qonduit_service_kit.errors import ApiError

from qonduit_gateway.api import convert
from qonduit_gateway.api.provider_checks import place_of
from qonduit_gateway.providers.access import FOR_EVERYONE, Grant, Grantee, GranteeKind, Role

if TYPE_CHECKING:
    from qonduit_gateway.database.audit_rows import AuditEntry
    from qonduit_gateway.database.grant_rows import KeptGrant
    from qonduit_gateway.database.provider_rows import Group, Provider
    from qonduit_gateway.providers.access import Access


def grant_of(request: providers_pb2.GrantRequest | providers_pb2.RevokeRequest) -> Grant:
    """Return the grant that a request describes; ApiError when there can be none such."""
    wrong: dict[str, str] = {}
    kind, role = _kind(request.grantee_kind), _role(request.role)
    if kind is None:
        wrong["grantee_kind"] = "Say to whom: USER, GROUP or EVERYONE."
    elif (kind is GranteeKind.EVERYONE) is bool(request.grantee):
        wrong["grantee"] = "Name the user or the group, and nobody for everyone."
    if role is None:
        wrong["role"] = f"Say which role: {', '.join(each.value for each in Role)}."
    elif kind is GranteeKind.EVERYONE and role not in FOR_EVERYONE:
        allowed = ", ".join(each.value for each in Role if each in FOR_EVERYONE)
        wrong["role"] = f"Everyone can have {allowed}; grant {role.value} to users or groups."
    if kind is None or role is None or wrong:
        text = "There can be no such grant. " + " ".join(wrong.values())
        raise ApiError(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_GRANT", text, violations=wrong)
    return Grant(place_of(request.name), Grantee(kind, request.grantee), role)


def provider(value: Provider, access: Access) -> providers_pb2.Provider:
    """Return a provider of the API."""
    return providers_pb2.Provider(
        name=value.name, create_time=convert.timestamp(value.created_at), roles=convert.roles(access.roles)
    )


def grant(value: KeptGrant) -> providers_pb2.AccessGrant:
    """Return a grant of the API."""
    kept = value.grant
    return providers_pb2.AccessGrant(
        provider=kept.place.provider,
        function_title=kept.place.title,
        grantee_kind=providers_pb2.GranteeKind.Value(f"GRANTEE_KIND_{kept.grantee.kind.name}"),
        grantee=kept.grantee.name,
        role=convert.role(kept.role),
        granted_by=value.by,
        grant_time=convert.timestamp(value.at),
    )


def group(value: Group) -> providers_pb2.Group:
    """Return a group of the API."""
    return providers_pb2.Group(name=value.name, members=value.members, create_time=convert.timestamp(value.created_at))


def audit_entry(value: AuditEntry) -> providers_pb2.AuditEntry:
    """Return an audit entry of the API."""
    return providers_pb2.AuditEntry(
        time=convert.timestamp(value.at),
        actor=value.actor,
        action=value.action,
        provider=value.place.provider,
        function_title=value.place.title,
        subject=value.subject,
        detail=value.detail,
    )


def _kind(value: providers_pb2.GranteeKind.ValueType) -> GranteeKind | None:
    known = {providers_pb2.GranteeKind.Value(f"GRANTEE_KIND_{kind.name}"): kind for kind in GranteeKind}
    return known.get(value)


def _role(value: types_pb2.Role.ValueType) -> Role | None:
    return {convert.role(role): role for role in Role}.get(value)
