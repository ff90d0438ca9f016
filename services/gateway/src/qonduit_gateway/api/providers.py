"""ProviderService."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import grpc
from qonduit_api.v1 import providers_pb2, providers_pb2_grpc
from qonduit_service_kit import spaces
from qonduit_service_kit.errors import ApiError

from qonduit_gateway.api import convert, job_lists, paging, provider_convert
from qonduit_gateway.api.callers import administrator, caller
from qonduit_gateway.api.provider_changes import TEXT_LIMIT_CHARS, Changes
from qonduit_gateway.api.provider_checks import function_place, place_of, provider_not_found, require
from qonduit_gateway.database import audit_rows, grant_rows, job_rows, provider_rows
from qonduit_gateway.database.audit_rows import OF_PEOPLE
from qonduit_gateway.providers.access import Access, Action, Place, access_at

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from typing import TypeVar

    from qonduit_api.v1 import jobs_pb2
    from sqlalchemy import Connection

    from qonduit_gateway.database.audit_rows import AuditEntry
    from qonduit_gateway.database.engine import Database
    from qonduit_gateway.database.grant_rows import KeptGrant
    from qonduit_gateway.database.provider_rows import Provider
    from qonduit_gateway.jobs.model import Job
    from qonduit_gateway.providers.access import Grant
    from qonduit_gateway.storage_client import StorageClient

    T = TypeVar("T")


class ProviderService(providers_pb2_grpc.ProviderServiceServicer):  # type: ignore[misc,unused-ignore]
    """Says who may do what with functions that are shared, and tells about it."""

    def __init__(self, database: Database, storage: StorageClient, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._storage = storage
        self._clock = clock

    async def CreateProvider(  # noqa: N802 - named by the API.
        self, request: providers_pb2.CreateProviderRequest, context: Any
    ) -> providers_pb2.CreateProviderResponse:
        """Make a provider."""
        del context
        administrator()
        made = await self._change(lambda changes: changes.create_provider(request.name, list(request.admins)))
        return providers_pb2.CreateProviderResponse(provider=provider_convert.provider(made, Access(frozenset())))

    async def ListProviders(  # noqa: N802
        self, request: providers_pb2.ListProvidersRequest, context: Any
    ) -> providers_pb2.ListProvidersResponse:
        """List the providers of which the caller may see anything."""
        del context
        size, user = paging.page_size(request.page_size), caller()
        after = paging.from_token(request.page_token, str)
        whose = None if user.administrator else user.name

        def read(connection: Connection) -> tuple[list[Provider], list[Grant]]:
            found = provider_rows.page(connection, whose, size=size, after=after)
            return found, grant_rows.held(connection, user.name, [each.name for each in found])

        found, held = await self._database.read(read)
        listed = [provider_convert.provider(each, access_at(Place(each.name), held)) for each in found]
        token = paging.to_token(found[-1].name) if len(found) == size else ""
        return providers_pb2.ListProvidersResponse(providers=listed, next_page_token=token)

    async def GetProvider(  # noqa: N802
        self, request: providers_pb2.GetProviderRequest, context: Any
    ) -> providers_pb2.GetProviderResponse:
        """Return one provider."""
        del context
        name, user = request.name, caller()

        def read(connection: Connection) -> tuple[Provider, Access]:
            held = grant_rows.held(connection, user.name, [name])
            found = provider_rows.get(connection, name) if held or user.administrator else None
            if found is None:
                raise provider_not_found(name)
            return found, access_at(Place(name), held)

        found, access = await self._database.read(read)
        return providers_pb2.GetProviderResponse(provider=provider_convert.provider(found, access))

    async def Grant(  # noqa: N802
        self, request: providers_pb2.GrantRequest, context: Any
    ) -> providers_pb2.GrantResponse:
        """Grant a role."""
        del context
        wanted = provider_convert.grant_of(request)
        kept, created = await self._change(lambda changes: changes.grant(wanted))
        return providers_pb2.GrantResponse(grant=provider_convert.grant(kept), created=created)

    async def Revoke(  # noqa: N802
        self, request: providers_pb2.RevokeRequest, context: Any
    ) -> providers_pb2.RevokeResponse:
        """Take a role back."""
        del context
        wanted = provider_convert.grant_of(request)
        await self._change(lambda changes: changes.revoke(wanted))
        return providers_pb2.RevokeResponse()

    async def ListGrants(  # noqa: N802
        self, request: providers_pb2.ListGrantsRequest, context: Any
    ) -> providers_pb2.ListGrantsResponse:
        """List grants."""
        del context
        size, user, place = paging.page_size(request.page_size), caller().name, place_of(request.name)
        after = paging.from_token(request.page_token, str, str, str, str)

        def read(connection: Connection) -> list[KeptGrant]:
            require(connection, user, place, Action.MANAGE)
            return grant_rows.page(connection, place, size=size, after=after)

        found = await self._database.read(read)
        token = paging.to_token(found[-1].key) if len(found) == size else ""
        return providers_pb2.ListGrantsResponse(grants=map(provider_convert.grant, found), next_page_token=token)

    async def CreateGroup(  # noqa: N802
        self, request: providers_pb2.CreateGroupRequest, context: Any
    ) -> providers_pb2.CreateGroupResponse:
        """Make a group."""
        del context
        administrator()
        made = await self._change(lambda changes: changes.create_group(request.name))
        return providers_pb2.CreateGroupResponse(group=provider_convert.group(made))

    async def ListGroups(  # noqa: N802
        self, request: providers_pb2.ListGroupsRequest, context: Any
    ) -> providers_pb2.ListGroupsResponse:
        """List groups: all of them with their members, or the caller's own."""
        del request, context
        user = caller()
        found = await self._database.read(
            lambda connection: (
                provider_rows.all_groups(connection)
                if user.administrator
                else provider_rows.groups_of(connection, user.name)
            )
        )
        return providers_pb2.ListGroupsResponse(groups=map(provider_convert.group, found))

    async def AddGroupMember(  # noqa: N802
        self, request: providers_pb2.AddGroupMemberRequest, context: Any
    ) -> providers_pb2.AddGroupMemberResponse:
        """Put a user into a group."""
        del context
        administrator()
        await self._change(lambda changes: changes.add_member(request.group, request.user))
        return providers_pb2.AddGroupMemberResponse()

    async def RemoveGroupMember(  # noqa: N802
        self, request: providers_pb2.RemoveGroupMemberRequest, context: Any
    ) -> providers_pb2.RemoveGroupMemberResponse:
        """Take a user out of a group."""
        del context
        administrator()
        await self._change(lambda changes: changes.remove_member(request.group, request.user))
        return providers_pb2.RemoveGroupMemberResponse()

    async def DisableFunction(  # noqa: N802
        self, request: providers_pb2.DisableFunctionRequest, context: Any
    ) -> providers_pb2.DisableFunctionResponse:
        """Have a function accept no jobs."""
        del context
        place, text = function_place(request.function), request.text.strip()
        if not 1 <= len(text) <= TEXT_LIMIT_CHARS:
            wrong = f"Say in 1 to {TEXT_LIMIT_CHARS} characters why, and what to do: users are told it."
            raise ApiError(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_TEXT", wrong, violations={"text": wrong})
        await self._change(lambda changes: changes.set_disabled(place, text))
        return providers_pb2.DisableFunctionResponse()

    async def EnableFunction(  # noqa: N802
        self, request: providers_pb2.EnableFunctionRequest, context: Any
    ) -> providers_pb2.EnableFunctionResponse:
        """Have a function accept jobs again."""
        del context
        place = function_place(request.function)
        await self._change(lambda changes: changes.set_disabled(place, None))
        return providers_pb2.EnableFunctionResponse()

    async def ListProviderJobs(  # noqa: N802
        self, request: providers_pb2.ListProviderJobsRequest, context: Any
    ) -> providers_pb2.ListProviderJobsResponse:
        """List the jobs of a function, whoever runs them."""
        del context
        place, user = function_place(request.function), caller().name
        await self._database.read(lambda connection: require(connection, user, place, Action.READ_LOGS))
        wanted = job_rows.Wanted(None, place.title, place.provider)
        page = await job_lists.read(self._database, request, wanted, lambda job, _: convert.job_for_provider(job))
        return providers_pb2.ListProviderJobsResponse(
            jobs=page.jobs, next_page_token=page.next_page_token, total=page.total
        )

    async def StreamProviderLogs(  # noqa: N802
        self, request: providers_pb2.StreamProviderLogsRequest, context: Any
    ) -> AsyncIterator[providers_pb2.StreamProviderLogsResponse]:
        """Stream what a job told its function's provider."""
        del context
        if request.offset < 0:
            raise ApiError(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_OFFSET", "The offset must not be negative.")
        job = await self._job(request.job_id)
        key = spaces.provider_log(job.job_id)
        async for piece in self._storage.log(key, request.offset, follow=request.follow, tail_lines=request.tail_lines):
            yield providers_pb2.StreamProviderLogsResponse(chunk=piece.chunk, offset=piece.offset)

    async def job(self, job_id: str) -> jobs_pb2.Job:
        """Return a job as ListProviderJobs does; ApiError unless it is there for the caller."""
        return convert.job_for_provider(await self._job(job_id))

    async def ListAuditEntries(  # noqa: N802
        self, request: providers_pb2.ListAuditEntriesRequest, context: Any
    ) -> providers_pb2.ListAuditEntriesResponse:
        """List who did what."""
        del context
        size, user = paging.page_size(request.page_size), caller().name
        before = paging.from_token(request.page_token, int)
        if not request.name:
            administrator()
        place = place_of(request.name) if request.name else OF_PEOPLE

        def read(connection: Connection) -> list[AuditEntry]:
            if place != OF_PEOPLE:
                require(connection, user, place, Action.MANAGE)
            return audit_rows.page(connection, place, size=size, before=before)

        found = await self._database.read(read)
        entries = paging.fitting([provider_convert.audit_entry(entry) for entry in found])
        more = len(found) == size or len(entries) < len(found)
        token = paging.to_token(found[len(entries) - 1].number) if more else ""
        return providers_pb2.ListAuditEntriesResponse(entries=entries, next_page_token=token)

    async def _job(self, job_id: str) -> Job:
        user = caller().name

        def read(connection: Connection) -> Job | None:
            job = job_rows.get(connection, job_id)
            if job is None or not job.submission.program.provider:
                return None
            place = Place(job.submission.program.provider, job.submission.program.title)
            return job if grant_rows.access_of(connection, user, place).allows(Action.READ_LOGS) else None

        job = await self._database.read(read)
        if job is None:
            raise _job_not_found(job_id)
        return job

    async def _change(self, change: Callable[[Changes], T]) -> T:
        actor, now = caller().name, self._clock()
        return await self._database.write(lambda connection: change(Changes(connection, actor, now)))


def _job_not_found(job_id: str) -> ApiError:
    text = (
        f"There is no job {job_id[:100]!r} of a function whose provider's log you may read. "
        "List the function's jobs to see which there are."
    )
    return ApiError(grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND", text, metadata={"job_id": job_id[:100]})
