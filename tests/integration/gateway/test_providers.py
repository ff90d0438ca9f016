"""Functions that are shared, on a real gateway and a real storage: for admins, users, those who try, and strangers."""

from __future__ import annotations

import asyncio
import hashlib
import io
import tarfile
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from integration.gateway.rig import PATIENCE_S, tar, upload_messages
from qonduit_api.v1 import files_pb2, functions_pb2, jobs_pb2, types_pb2
from qonduit_api.v1 import providers_pb2 as pb
from qonduit_service_kit.errors import ApiError, from_rpc_error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from integration.gateway.rig import Client, Cluster

READ, RUN, TRIAL, LOGS, FILES, ADMIN = range(1, 7)


@dataclass
class Acme:
    """A provider with the function solver, and everybody who has to do with it."""

    provider: str
    root: Client
    admin: Client
    user: Client
    stranger: Client

    @property
    def solver(self) -> str:
        return f"{self.provider}/solver"

    async def grant(self, grantee: Client, *roles: int, name: str = "", by: Client | None = None) -> None:
        for role in roles:
            await (by or self.admin).providers.Grant(self._wanted(pb.GrantRequest, grantee, role, name))

    async def revoke(self, grantee: Client, role: int) -> None:
        await self.admin.providers.Revoke(self._wanted(pb.RevokeRequest, grantee, role, ""))

    def _wanted(self, kind: Any, grantee: Client, role: int, name: str) -> Any:
        return kind(
            name=name or self.solver,
            grantee_kind=pb.GRANTEE_KIND_USER,
            grantee=grantee.name,
            role=types_pb2.Role.Name(role),
        )


@pytest.fixture
async def acme(admin: Client, new_user: Callable[[], Awaitable[Client]]) -> Acme:
    owner, user, stranger = await new_user(), await new_user(), await new_user()
    name = f"acme-{uuid.uuid4().hex[:8]}"
    await admin.providers.CreateProvider(pb.CreateProviderRequest(name=name, admins=[owner.name]))
    await owner.upload(f"{name}/solver", description="solves", env_vars={"SECRET": "s"}, dependencies=["numpy"])
    return Acme(name, admin, owner, user, stranger)


async def refusal(call: Any) -> ApiError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (call if hasattr(call, "__await__") else anext(aiter(call)))
    return from_rpc_error(caught.value)


def put_file(client: Client, name: str, content: bytes, **whose: Any) -> Any:
    header = files_pb2.UploadFileHeader(
        name=name, size_bytes=len(content), digest=hashlib.sha256(content).hexdigest(), **whose
    )
    messages = [files_pb2.UploadFileRequest(header=header), files_pb2.UploadFileRequest(chunk=content)]
    return client.files.UploadFile(iter(messages))


async def file_names(client: Client, **whose: Any) -> list[str]:
    answer = await client.files.ListFiles(files_pb2.ListFilesRequest(**whose))
    return [file.name for file in answer.files]


async def functions(client: Client, **wanted: Any) -> list[functions_pb2.Function]:
    return list((await client.functions.ListFunctions(functions_pb2.ListFunctionsRequest(**wanted))).functions)


def calls(client: Client, name: str, job_id: str) -> dict[str, Callable[[], Any]]:
    """Return every call that names a provider's function, or a job of it."""
    files = {"function": name, "of_provider": True}
    everyone = {"name": name, "grantee_kind": pb.GRANTEE_KIND_EVERYONE, "role": types_pb2.ROLE_RUN}
    artifact = tar({"program.py": b"print()\n"})
    return {
        "get": lambda: client.functions.GetFunction(functions_pb2.GetFunctionRequest(title=name)),
        "versions": lambda: client.functions.ListFunctionVersions(
            functions_pb2.ListFunctionVersionsRequest(title=name)
        ),
        "artifact": lambda: client.functions.ListFunctionFiles(functions_pb2.ListFunctionFilesRequest(title=name)),
        "alias": lambda: client.functions.SetFunctionAlias(
            functions_pb2.SetFunctionAliasRequest(title=name, alias="a")
        ),
        "unalias": lambda: client.functions.DeleteFunctionAlias(
            functions_pb2.DeleteFunctionAliasRequest(title=name, alias="a")
        ),
        "upload": lambda: client.functions.UploadFunction(
            upload_messages(artifact, title=name, entrypoint="program.py")
        ),
        "run": lambda: client.jobs.Run(jobs_pb2.RunRequest(function_title=name)),
        "own files": lambda: client.files.ListFiles(files_pb2.ListFilesRequest(function=name)),
        "list files": lambda: client.files.ListFiles(files_pb2.ListFilesRequest(**files)),
        "put file": lambda: put_file(client, "a.tar", tar({"a": b"b"}), **files),
        "get file": lambda: client.files.DownloadFile(files_pb2.DownloadFileRequest(name="a.tar", **files)),
        "stat file": lambda: client.files.StatFile(files_pb2.StatFileRequest(name="a.tar", **files)),
        "delete file": lambda: client.files.DeleteFile(files_pb2.DeleteFileRequest(name="a.tar", **files)),
        "usage": lambda: client.files.GetFileUsage(files_pb2.GetFileUsageRequest(**files)),
        "grant": lambda: client.providers.Grant(pb.GrantRequest(**everyone)),
        "revoke": lambda: client.providers.Revoke(pb.RevokeRequest(**everyone)),
        "grants": lambda: client.providers.ListGrants(pb.ListGrantsRequest(name=name)),
        "disable": lambda: client.providers.DisableFunction(pb.DisableFunctionRequest(function=name, text="no")),
        "enable": lambda: client.providers.EnableFunction(pb.EnableFunctionRequest(function=name)),
        "jobs": lambda: client.providers.ListProviderJobs(pb.ListProviderJobsRequest(function=name)),
        "logs": lambda: client.providers.StreamProviderLogs(pb.StreamProviderLogsRequest(job_id=job_id)),
        "audit": lambda: client.providers.ListAuditEntries(pb.ListAuditEntriesRequest(name=name)),
        "provider": lambda: client.providers.GetProvider(pb.GetProviderRequest(name=name.partition("/")[0])),
        "all grants": lambda: client.providers.ListGrants(pb.ListGrantsRequest(name=name.partition("/")[0])),
        "all audit": lambda: client.providers.ListAuditEntries(pb.ListAuditEntriesRequest(name=name.partition("/")[0])),
    }


def told(error: ApiError, *names: str) -> bytes:
    """Return a refusal as it travels, with the names that were asked for taken out."""
    status = error.to_status().SerializeToString()
    for name in names:
        status = status.replace(name.encode(), b"?" * len(name))
    return bytes(status)


async def test_to_strangers_a_function_looks_as_if_it_were_not_there(acme: Acme) -> None:
    await acme.grant(acme.user, RUN)
    job = await acme.user.run(acme.solver)
    absent_provider, absent_job = acme.provider[:-1] + "x", job.job_id[:-1] + "x"
    there = calls(acme.stranger, acme.solver, job.job_id)
    not_there = calls(acme.stranger, f"{absent_provider}/solver", absent_job)
    for name in there:
        hidden, absent = await refusal(there[name]()), await refusal(not_there[name]())
        assert hidden.code is grpc.StatusCode.NOT_FOUND, name
        assert told(hidden, acme.provider, job.job_id) == told(absent, absent_provider, absent_job), name
    assert await functions(acme.stranger, filter=functions_pb2.FUNCTION_FILTER_ALL) == []
    assert not (await acme.stranger.providers.ListProviders(pb.ListProvidersRequest())).providers
    # To administrators of the installation only the provider's name is there.
    root = calls(acme.root, acme.solver, job.job_id)
    refused = {name: (await refusal(call())).reason for name, call in root.items() if name != "provider"}
    assert set(refused.values()) <= {"FUNCTION_NOT_FOUND", "PROVIDER_NOT_FOUND", "JOB_NOT_FOUND"}
    listed = (await acme.root.providers.ListProviders(pb.ListProvidersRequest(page_size=1000))).providers
    assert acme.provider in {provider.name for provider in listed}


async def test_who_may_see_a_function_is_told_what_is_missing(acme: Acme) -> None:
    await acme.grant(acme.user, READ)
    may = {"get", "versions", "own files", "provider", "logs"}
    for name, call in calls(acme.user, acme.solver, "x").items():
        if name not in may:
            error = await refusal(call())
            assert (error.reason, acme.provider in error.text) == ("ROLE_MISSING", True), name
    seen = (await acme.user.functions.GetFunction(functions_pb2.GetFunctionRequest(title=acme.solver))).function
    assert (seen.provider, seen.owner, seen.spec.title, seen.spec.description) == (
        acme.provider,
        "",
        "solver",
        "solves",
    )
    assert (seen.spec.entrypoint, dict(seen.spec.env_vars), list(seen.spec.dependencies)) == ("", {}, [])
    assert (seen.artifact_digest, seen.artifact_bytes, list(seen.roles)) == ("", 0, [types_pb2.ROLE_READ])
    whole = (await acme.admin.functions.GetFunction(functions_pb2.GetFunctionRequest(title=acme.solver))).function
    assert (whole.spec.entrypoint, dict(whole.spec.env_vars)) == ("program.py", {"SECRET": "s"})
    of_acme = await functions(acme.user, provider=acme.provider)
    assert of_acme == await functions(acme.user, filter=functions_pb2.FUNCTION_FILTER_OF_PROVIDERS) == [seen]
    assert await functions(acme.user) == []


async def test_a_job_runs_with_its_users_rights_at_its_beginning(acme: Acme, cluster: Cluster) -> None:
    await acme.grant(acme.user, TRIAL)
    request = jobs_pb2.RunRequest(function_title=acme.solver, idempotency_key="once")
    job = (await acme.user.jobs.Run(request)).job
    assert (job.provider, job.function_title, job.owner, job.trial) == (acme.provider, "solver", acme.user.name, True)
    spec = await cluster.submitted(job.job_id)
    assert (spec.provider, spec.trial) == (acme.provider, True)
    assert spec.space == f"functions/{acme.solver}/{acme.user.name}"
    assert spec.environment == {"SECRET": "s"}
    await acme.grant(acme.user, RUN)
    assert not (await acme.user.run(acme.solver)).trial
    for role in (TRIAL, RUN):
        await acme.revoke(acme.user, role)
    assert (await refusal(acme.user.run(acme.solver))).reason == "FUNCTION_NOT_FOUND"
    assert (await acme.user.jobs.Run(request)).job.job_id == job.job_id  # A repeat of what was accepted.
    assert (await acme.user.get(job.job_id)).status == "QUEUED"
    listed = await acme.user.jobs.ListJobs(jobs_pb2.ListJobsRequest(function_title=acme.solver))
    assert job.job_id in {each.job_id for each in listed.jobs}
    assert not (await acme.user.jobs.ListJobs(jobs_pb2.ListJobsRequest(function_title="solver"))).jobs


async def test_a_function_that_is_disabled_says_why(acme: Acme) -> None:
    await acme.grant(acme.user, RUN)
    accepted = await acme.user.run(acme.solver)
    text = "Out of order until Monday; use acme/other."
    await acme.admin.providers.DisableFunction(pb.DisableFunctionRequest(function=acme.solver, text=text))
    error = await refusal(acme.user.run(acme.solver))
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "FUNCTION_DISABLED")
    assert text in error.text
    assert (await functions(acme.user, provider=acme.provider))[0].disabled_text == text
    assert (await acme.user.get(accepted.job_id)).status == "QUEUED"
    await acme.admin.providers.EnableFunction(pb.EnableFunctionRequest(function=acme.solver))
    assert (await acme.user.run(acme.solver)).status == "QUEUED"
    for wrong in ("", " ", "x" * 501):
        request = pb.DisableFunctionRequest(function=acme.solver, text=wrong)
        assert (await refusal(acme.admin.providers.DisableFunction(request))).reason == "INVALID_TEXT"
    request = pb.DisableFunctionRequest(function="solver", text="no")
    assert (await refusal(acme.admin.providers.DisableFunction(request))).reason == "INVALID_FUNCTION_NAME"


async def test_files_for_a_function_are_apart_from_all_others(acme: Acme) -> None:
    await acme.grant(acme.user, RUN)
    await acme.grant(acme.stranger, FILES)
    mine, theirs = tar({"mine": b"1"}), tar({"theirs": b"2"})
    await put_file(acme.user, "mine.tar", mine, function=acme.solver)
    await put_file(acme.stranger, "theirs.tar", theirs, function=acme.solver, of_provider=True)
    assert await file_names(acme.user, function=acme.solver) == ["mine.tar"]
    assert await file_names(acme.user) == await file_names(acme.user, function="own") == []
    assert await file_names(acme.admin, function=acme.solver) == []
    assert await file_names(acme.admin, function=acme.solver, of_provider=True) == ["theirs.tar"]
    assert (await refusal(acme.user.run(acme.solver, files=jobs_pb2.FileSelection(names=["theirs.tar"])))).reason == (
        "FILE_NOT_FOUND"
    )
    assert (await acme.user.run(acme.solver, files=jobs_pb2.FileSelection(names=["mine.tar"]))).status == "QUEUED"
    request = files_pb2.DownloadFileRequest(name="theirs.tar", function=acme.solver, of_provider=True)
    parts = [answer async for answer in acme.admin.files.DownloadFile(request)]
    with tarfile.open(fileobj=io.BytesIO(b"".join(part.chunk for part in parts))) as archive:
        assert archive.getnames() == ["theirs"]
    delete = files_pb2.DeleteFileRequest(name="theirs.tar", function=acme.solver, of_provider=True)
    await acme.stranger.files.DeleteFile(delete)
    assert await file_names(acme.admin, function=acme.solver, of_provider=True) == []
    error = await refusal(acme.user.files.ListFiles(files_pb2.ListFilesRequest(of_provider=True)))
    assert error.reason == "INVALID_FUNCTION_NAME"


async def test_providers_see_jobs_and_never_what_is_their_users(acme: Acme) -> None:
    await acme.grant(acme.user, RUN)
    await acme.grant(acme.stranger, LOGS)
    job = await acme.user.run(acme.solver, arguments_json=b'{"secret": 1}')
    await acme.user.jobs.CancelJob(jobs_pb2.CancelJobRequest(job_id=job.job_id))
    request = pb.ListProviderJobsRequest(function=acme.solver, count=True, states=[types_pb2.JOB_STATE_CANCELED])
    answer = await acme.stranger.providers.ListProviderJobs(request)
    assert answer.total == 1
    seen = answer.jobs[0]
    assert (seen.job_id, seen.owner, seen.status, seen.provider) == (
        job.job_id,
        acme.user.name,
        "CANCELED",
        acme.provider,
    )
    assert (seen.error_text, seen.waiting_for) == ("", "")
    for client in (acme.stranger, acme.admin):
        for call in (
            client.jobs.GetJob(jobs_pb2.GetJobRequest(job_id=job.job_id)),
            client.jobs.GetArguments(jobs_pb2.GetArgumentsRequest(job_id=job.job_id)),
            client.jobs.GetResult(jobs_pb2.GetResultRequest(job_id=job.job_id)),
            client.jobs.StreamLogs(jobs_pb2.StreamLogsRequest(job_id=job.job_id)),
            client.jobs.CancelJob(jobs_pb2.CancelJobRequest(job_id=job.job_id)),
        ):
            assert (await refusal(call)).reason == "JOB_NOT_FOUND"
    # The provider's log ends with the job, so following it ends as well; to its user it is not there.
    follow = pb.StreamProviderLogsRequest(job_id=job.job_id, follow=True)
    async with asyncio.timeout(PATIENCE_S):
        assert [piece async for piece in acme.stranger.providers.StreamProviderLogs(follow)] == []
    assert (await refusal(acme.user.providers.StreamProviderLogs(follow))).reason == "JOB_NOT_FOUND"


async def test_a_groups_members_may_what_the_group_may(acme: Acme) -> None:
    group = f"chemists-{uuid.uuid4().hex[:8]}"
    await acme.root.providers.CreateGroup(pb.CreateGroupRequest(name=group))
    request = pb.GrantRequest(
        name=acme.provider, grantee_kind=pb.GRANTEE_KIND_GROUP, grantee=group, role=types_pb2.ROLE_RUN
    )
    assert (await acme.admin.providers.Grant(request)).created
    assert (await refusal(acme.user.run(acme.solver))).reason == "FUNCTION_NOT_FOUND"
    await acme.root.providers.AddGroupMember(pb.AddGroupMemberRequest(group=group, user=acme.user.name))
    assert (await acme.user.run(acme.solver)).provider == acme.provider
    mine = (await acme.user.providers.ListGroups(pb.ListGroupsRequest())).groups
    assert [(each.name, list(each.members)) for each in mine] == [(group, [])]
    everybody = (await acme.root.providers.ListGroups(pb.ListGroupsRequest())).groups
    assert [list(each.members) for each in everybody if each.name == group] == [[acme.user.name]]
    await acme.root.providers.RemoveGroupMember(pb.RemoveGroupMemberRequest(group=group, user=acme.user.name))
    assert (await refusal(acme.user.run(acme.solver))).reason == "FUNCTION_NOT_FOUND"
    for call in (
        acme.admin.providers.CreateGroup(pb.CreateGroupRequest(name="x")),
        acme.admin.providers.AddGroupMember(pb.AddGroupMemberRequest(group=group, user=acme.user.name)),
        acme.admin.providers.CreateProvider(pb.CreateProviderRequest(name="x", admins=[acme.admin.name])),
        acme.admin.providers.ListAuditEntries(pb.ListAuditEntriesRequest()),
    ):
        assert (await refusal(call)).reason == "NOT_ADMINISTRATOR"


async def test_grants_that_can_not_be_are_refused(acme: Acme) -> None:
    user, everyone = pb.GRANTEE_KIND_USER, pb.GRANTEE_KIND_EVERYONE
    for kind, grantee, role in (
        (0, "ada", types_pb2.ROLE_RUN),
        (user, "", types_pb2.ROLE_RUN),
        (user, "ada", 0),
        (user, "ada", 99),
        (everyone, "ada", types_pb2.ROLE_RUN),
        (everyone, "", types_pb2.ROLE_ADMIN),
        (everyone, "", types_pb2.ROLE_LOGS),
        (everyone, "", types_pb2.ROLE_FILES),
    ):
        request = pb.GrantRequest(name=acme.solver, grantee_kind=kind, grantee=grantee, role=role)
        error = await refusal(acme.admin.providers.Grant(request))
        assert (error.reason, bool(error.violations)) == ("INVALID_GRANT", True)


async def test_whoever_administers_one_function_uploads_it_and_no_other(acme: Acme) -> None:
    await acme.grant(acme.user, ADMIN)
    answer = await acme.user.upload(acme.solver, description="better")
    assert (answer.created, answer.function.provider, answer.function.spec.title) == (True, acme.provider, "solver")
    alias = functions_pb2.SetFunctionAliasRequest(title=acme.solver, alias="stable")
    assert (await acme.user.functions.SetFunctionAlias(alias)).function.aliases == ["latest", "stable"]
    assert (await refusal(acme.user.upload(f"{acme.provider}/other"))).reason == "PROVIDER_NOT_FOUND"
    assert (await refusal(acme.admin.upload(f"{acme.provider}/.."))).reason == "INVALID_FUNCTION"
    assert (await refusal(acme.admin.upload(f"{acme.provider}/a/b"))).reason == "INVALID_FUNCTION"
    entries = (await acme.user.providers.ListAuditEntries(pb.ListAuditEntriesRequest(name=acme.solver))).entries
    assert [(entry.actor, entry.action, entry.subject) for entry in entries] == [
        (acme.user.name, "alias.set", "stable"),
        (acme.user.name, "function.upload", ""),
        (acme.admin.name, "grant.add", f"user {acme.user.name}"),
        (acme.admin.name, "function.upload", ""),
    ]
    assert answer.function.version in entries[1].detail
