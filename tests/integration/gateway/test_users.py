"""Tokens that are made and withdrawn, and users who are shut out, at a real gateway."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from integration.gateway.rig import ADMIN_TOKEN, PATIENCE_S, Client
from qonduit_api.v1 import cluster_pb2, jobs_pb2
from qonduit_service_kit.errors import ApiError, from_rpc_error
from qonduit_service_kit.messages import StopAttempt

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from integration.gateway.rig import Cluster, Service


async def refusal(call: Any) -> ApiError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


@pytest.fixture
async def connect(gateway: Service) -> AsyncIterator[Callable[[str], Client]]:
    """Call with a token."""
    made: list[Client] = []

    def opened(token: str) -> Client:
        made.append(Client(gateway.address, token))
        return made[-1]

    yield opened
    for each in made:
        await each.close()


async def make_token(client: Client, **request: Any) -> cluster_pb2.CreateTokenResponse:
    answer: cluster_pb2.CreateTokenResponse = await client.cluster.CreateToken(
        cluster_pb2.CreateTokenRequest(**request)
    )
    return answer


async def tokens(client: Client, name: str = "") -> list[cluster_pb2.UserToken]:
    return list((await client.cluster.ListTokens(cluster_pb2.ListTokensRequest(name=name))).tokens)


def withdraw(client: Client, token_id: str, name: str = "") -> Any:
    return client.cluster.WithdrawToken(cluster_pb2.WithdrawTokenRequest(name=name, token_id=token_id))


def disable(client: Client, name: str, **more: Any) -> Any:
    return client.cluster.DisableUser(cluster_pb2.DisableUserRequest(name=name, **more))


def info(client: Client) -> Any:
    return client.cluster.GetInfo(cluster_pb2.GetInfoRequest())


async def test_users_make_and_withdraw_their_own_tokens(client: Client, connect: Callable[[str], Client]) -> None:
    made = await make_token(client, label=" laptop ")
    laptop = connect(made.token)
    assert (await info(laptop)).user == client.name
    first, second = await tokens(laptop, client.name)
    assert (first.label, second.label, second) == ("created", "laptop", made.listed)
    assert second.token_id not in made.token
    await withdraw(laptop, first.token_id)
    assert (await refusal(info(client))).reason == "TOKEN_INVALID"
    assert (await refusal(withdraw(laptop, first.token_id))).reason == "TOKEN_NOT_FOUND"
    assert (await refusal(withdraw(laptop, second.token_id))).reason == "LAST_TOKEN"
    replaced = await make_token(laptop, replace=True)
    assert (replaced.withdrawn, replaced.bootstrap_stays) == (1, False)
    assert (await refusal(info(laptop))).reason == "TOKEN_INVALID"
    assert (await info(connect(replaced.token))).user == client.name


async def test_only_administrators_touch_the_tokens_of_others(
    admin: Client, client: Client, other: Client, connect: Callable[[str], Client]
) -> None:
    (mine,) = await tokens(client)
    for name in (client.name, "nobody"):
        for call in (
            other.cluster.CreateToken(cluster_pb2.CreateTokenRequest(name=name)),
            other.cluster.ListTokens(cluster_pb2.ListTokensRequest(name=name)),
            withdraw(other, mine.token_id, name),
            disable(other, name),
            other.cluster.EnableUser(cluster_pb2.EnableUserRequest(name=name)),
        ):
            refused = await refusal(call)
            assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, "NOT_ADMINISTRATOR")
    assert (await refusal(withdraw(other, mine.token_id))).reason == "TOKEN_NOT_FOUND"
    made = await make_token(admin, name=client.name, replace=True)
    assert made.withdrawn == 1
    assert (await refusal(info(client))).reason == "TOKEN_INVALID"
    await withdraw(admin, made.listed.token_id, client.name)
    assert await tokens(admin, client.name) == []
    assert (await refusal(info(connect(made.token)))).reason == "TOKEN_INVALID"
    assert (await refusal(tokens(admin, "nobody"))).reason == "USER_NOT_FOUND"


async def test_the_token_in_the_file_is_withdrawn_there_alone(admin: Client, connect: Callable[[str], Client]) -> None:
    kept = next(token for token in await tokens(admin) if token.label == "bootstrap")
    refused = await refusal(withdraw(admin, kept.token_id))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "BOOTSTRAP_TOKEN")
    made = await make_token(admin, replace=True)
    assert made.bootstrap_stays
    await withdraw(connect(made.token), made.listed.token_id)
    assert (await info(connect(ADMIN_TOKEN))).administrator


async def test_a_watch_ends_soon_after_its_token_is_withdrawn(
    client: Client, connect: Callable[[str], Client], cluster: Cluster
) -> None:
    await client.upload()
    job_id = (await client.run()).job_id
    await cluster.submitted(job_id)
    made = await make_token(client)
    leaked = connect(made.token)
    watch = leaked.jobs.WatchJob(jobs_pb2.WatchJobRequest(job_id=job_id))
    log = leaked.jobs.StreamLogs(jobs_pb2.StreamLogsRequest(job_id=job_id, follow=True))
    kept = client.jobs.WatchJob(jobs_pb2.WatchJobRequest(job_id=job_id))
    assert (await watch.read()).job.status == (await kept.read()).job.status == "QUEUED"
    await withdraw(client, made.listed.token_id)
    async with asyncio.timeout(PATIENCE_S):
        for stream in (watch, log):
            assert (await refusal(stream.read())).reason == "TOKEN_INVALID"
    await client.jobs.CancelJob(jobs_pb2.CancelJobRequest(job_id=job_id))
    assert (await asyncio.wait_for(kept.read(), PATIENCE_S)).job.status == "CANCELED"


async def test_a_disabled_user_is_refused_and_their_jobs_go_on(admin: Client, client: Client, cluster: Cluster) -> None:
    await client.upload()
    job_id = (await client.run()).job_id
    spec = await cluster.submitted(job_id)
    answer = await disable(admin, client.name, text="left the lab")
    assert (answer.user.disabled, answer.user.disabled_text, answer.canceled_jobs) == (True, "left the lab", 0)
    refused = await refusal(info(client))
    assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, "USER_DISABLED")
    assert "left the lab" in refused.text
    await cluster.begin(spec)
    users = (await admin.cluster.ListUsers(cluster_pb2.ListUsersRequest())).users
    assert [user.disabled_text for user in users if user.disabled] == ["left the lab"]
    enabled = await admin.cluster.EnableUser(cluster_pb2.EnableUserRequest(name=client.name))
    assert not enabled.user.disabled
    await client.until(job_id, "RUNNING")


async def test_the_jobs_of_a_disabled_user_are_canceled_if_asked_to(
    admin: Client, client: Client, cluster: Cluster
) -> None:
    await client.upload()
    waiting, running = [(await client.run()).job_id for _ in range(2)]
    spec = await cluster.submitted(running)
    await cluster.begin(spec)
    await client.until(running, "RUNNING")
    assert (await disable(admin, client.name, cancel_jobs=True)).canceled_jobs == 2
    assert (await cluster.told(cluster.worker, StopAttempt, running)).attempt == 1
    assert (await disable(admin, client.name, cancel_jobs=True)).canceled_jobs == 0
    await admin.cluster.EnableUser(cluster_pb2.EnableUserRequest(name=client.name))
    assert (await client.get(waiting)).status == "CANCELED"
    assert (await client.get(running)).status == "CANCELING"


async def test_nobody_disables_themself(admin: Client) -> None:
    refused = await refusal(disable(admin, "admin"))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "OWN_USER")
    assert (await info(admin)).administrator
