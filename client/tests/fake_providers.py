"""Providers of a gateway in this process: what was asked for is kept, what is answered is up to the test."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fake_refusals import fail
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import code_pb2  # type: ignore[import-untyped]
from qonduit_api.v1 import jobs_pb2, providers_pb2_grpc, types_pb2
from qonduit_api.v1 import providers_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator

    import grpc

NOW = Timestamp(seconds=1_800_000_000)
Key = tuple[str, int, str, int]


@dataclass
class ProviderWorld:
    providers: dict[str, list[str]] = field(default_factory=dict)
    grants: dict[Key, pb.AccessGrant] = field(default_factory=dict)
    groups: dict[str, list[str]] = field(default_factory=dict)
    disabled: dict[str, str] = field(default_factory=dict)
    jobs: dict[str, list[jobs_pb2.Job]] = field(default_factory=dict)
    logs: dict[str, bytes] = field(default_factory=dict)
    audit: list[pb.AuditEntry] = field(default_factory=list)


class FakeProviders(providers_pb2_grpc.ProviderServiceServicer):
    def __init__(self, world: ProviderWorld) -> None:
        self.world = world

    def CreateProvider(  # noqa: N802
        self, request: pb.CreateProviderRequest, context: grpc.ServicerContext
    ) -> pb.CreateProviderResponse:
        if request.name in self.world.providers:
            fail(context, code_pb2.ALREADY_EXISTS, "PROVIDER_EXISTS", f"There is a provider {request.name!r} already.")
        self.world.providers[request.name] = list(request.admins)
        return pb.CreateProviderResponse(provider=self._provider(request.name))

    def ListProviders(  # noqa: N802
        self, request: pb.ListProvidersRequest, _context: grpc.ServicerContext
    ) -> pb.ListProvidersResponse:
        names = [name for name in sorted(self.world.providers) if name > request.page_token]
        page = [self._provider(name) for name in names[:1]]  # Small pages, as if there were many providers.
        return pb.ListProvidersResponse(providers=page, next_page_token=names[0] if len(names) > 1 else "")

    def GetProvider(  # noqa: N802
        self, request: pb.GetProviderRequest, context: grpc.ServicerContext
    ) -> pb.GetProviderResponse:
        if request.name not in self.world.providers:
            fail(context, code_pb2.NOT_FOUND, "PROVIDER_NOT_FOUND", f"There is no provider {request.name!r}.")
        return pb.GetProviderResponse(provider=self._provider(request.name))

    def Grant(self, request: pb.GrantRequest, context: grpc.ServicerContext) -> pb.GrantResponse:  # noqa: N802
        provider, _, title = request.name.partition("/")
        if provider not in self.world.providers:
            fail(
                context, code_pb2.PERMISSION_DENIED, "ROLE_MISSING", f"You may see {request.name!r}, but not change it."
            )
        granted = pb.AccessGrant(
            provider=provider,
            function_title=title,
            grantee_kind=request.grantee_kind,
            grantee=request.grantee,
            role=request.role,
            granted_by="me",
            grant_time=NOW,
        )
        self.world.grants[_key(request)] = granted
        return pb.GrantResponse(grant=granted, created=True)

    def Revoke(self, request: pb.RevokeRequest, context: grpc.ServicerContext) -> pb.RevokeResponse:  # noqa: N802
        if self.world.grants.pop(_key(request), None) is None:
            fail(context, code_pb2.NOT_FOUND, "GRANT_NOT_FOUND", "It is not granted.")
        return pb.RevokeResponse()

    def ListGrants(  # noqa: N802
        self, request: pb.ListGrantsRequest, _context: grpc.ServicerContext
    ) -> pb.ListGrantsResponse:
        found = [grant for key, grant in sorted(self.world.grants.items()) if key[0].startswith(request.name)]
        return pb.ListGrantsResponse(grants=found)

    def CreateGroup(  # noqa: N802
        self, request: pb.CreateGroupRequest, _context: grpc.ServicerContext
    ) -> pb.CreateGroupResponse:
        self.world.groups[request.name] = []
        return pb.CreateGroupResponse(group=pb.Group(name=request.name, create_time=NOW))

    def ListGroups(  # noqa: N802
        self, _request: pb.ListGroupsRequest, _context: grpc.ServicerContext
    ) -> pb.ListGroupsResponse:
        groups = [pb.Group(name=name, members=members) for name, members in sorted(self.world.groups.items())]
        return pb.ListGroupsResponse(groups=groups)

    def AddGroupMember(  # noqa: N802
        self, request: pb.AddGroupMemberRequest, _context: grpc.ServicerContext
    ) -> pb.AddGroupMemberResponse:
        self.world.groups[request.group].append(request.user)
        return pb.AddGroupMemberResponse()

    def RemoveGroupMember(  # noqa: N802
        self, request: pb.RemoveGroupMemberRequest, _context: grpc.ServicerContext
    ) -> pb.RemoveGroupMemberResponse:
        self.world.groups[request.group].remove(request.user)
        return pb.RemoveGroupMemberResponse()

    def DisableFunction(  # noqa: N802
        self, request: pb.DisableFunctionRequest, _context: grpc.ServicerContext
    ) -> pb.DisableFunctionResponse:
        self.world.disabled[request.function] = request.text
        return pb.DisableFunctionResponse()

    def EnableFunction(  # noqa: N802
        self, request: pb.EnableFunctionRequest, _context: grpc.ServicerContext
    ) -> pb.EnableFunctionResponse:
        self.world.disabled.pop(request.function, None)
        return pb.EnableFunctionResponse()

    def ListProviderJobs(  # noqa: N802
        self, request: pb.ListProviderJobsRequest, _context: grpc.ServicerContext
    ) -> pb.ListProviderJobsResponse:
        jobs = self.world.jobs.get(request.function, [])
        wanted = [job for job in jobs if not request.states or job.state in request.states]
        return pb.ListProviderJobsResponse(jobs=wanted[: request.page_size])

    def StreamProviderLogs(  # noqa: N802
        self, request: pb.StreamProviderLogsRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.StreamProviderLogsResponse]:
        if request.job_id not in self.world.logs:
            fail(context, code_pb2.NOT_FOUND, "JOB_NOT_FOUND", f"There is no job {request.job_id!r}.")
        data = self.world.logs[request.job_id]
        kept = b"".join(data.splitlines(keepends=True)[-request.tail_lines :])
        for start in range(request.offset or len(data) - len(kept), len(data), 3):
            yield pb.StreamProviderLogsResponse(chunk=data[start : start + 3], offset=start)

    def ListAuditEntries(  # noqa: N802
        self, request: pb.ListAuditEntriesRequest, _context: grpc.ServicerContext
    ) -> pb.ListAuditEntriesResponse:
        start = int(request.page_token or 0)
        found = [entry for entry in self.world.audit if entry.provider == request.name.partition("/")[0]]
        token = str(start + 1) if start + 1 < len(found) else ""  # Small pages, as if there were many entries.
        return pb.ListAuditEntriesResponse(entries=found[start : start + 1], next_page_token=token)

    def _provider(self, name: str) -> pb.Provider:
        roles = [types_pb2.ROLE_ADMIN] if "me" in self.world.providers[name] else []
        return pb.Provider(name=name, create_time=NOW, roles=roles)


def _key(request: pb.GrantRequest | pb.RevokeRequest) -> Key:
    return request.name, request.grantee_kind, request.grantee, request.role
