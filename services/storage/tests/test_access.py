"""Who may do what."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc import StatusCode
from qonduit_api.internal.v1 import storage_pb2 as pb
from qonduit_service_kit.rpc import channel, from_rpc_error
from qonduit_service_kit.tickets import Ticket, TicketSigner

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

pytestmark = [pytest.mark.parametrize("kept", ["directory"], indirect=True), pytest.mark.usefixtures("slow_senders")]

ADA, BOB = "users/ada", "users/bob"
X = hashlib.sha256(b"x").hexdigest()
GRANTS = [
    ("read blobs", {"blobs": "r"}),
    ("store blobs", {"blobs": "rw"}),
    ("read files", {"read_space": ADA}),
    ("change files", {"write_space": ADA}),
    ("read the log", {"log": "job-1"}),
    ("read files", {"provider_space": ADA}),
    ("write the log", {"provider_log": "job-1"}),
]
IMPLIED = {"store blobs": "read blobs", "read the log": "write the log"}
"""What the ticket in the list above gives beside the right that it stands for."""


def calls(client: Any, tar: bytes) -> dict[str, list[Callable[[], Awaitable[object]]]]:
    """Every call, by the right that it needs."""
    spaces = client.spaces
    return {
        "read blobs": [
            lambda: client.get_blob("0" * 64),
            lambda: client.blobs.GetSmallBlob(pb.GetSmallBlobRequest(digest="0" * 64)),
            lambda: client.blobs.StatBlobs(pb.StatBlobsRequest(digests=["0" * 64])),
        ],
        "store blobs": [
            lambda: client.put_blob(b"x"),
            lambda: client.blobs.PutSmallBlob(pb.PutSmallBlobRequest(digest=X, content=b"x")),
        ],
        "read files": [
            lambda: client.get_file("a.tar"),
            client.names,
            lambda: spaces.StatSpaceFile(pb.StatSpaceFileRequest(space=ADA, name="a.tar")),
            lambda: spaces.GetSpaceUsage(pb.GetSpaceUsageRequest(space=ADA)),
        ],
        "change files": [
            lambda: client.put_file("a.tar", tar),
            lambda: spaces.DeleteSpaceFile(pb.DeleteSpaceFileRequest(space=ADA, name="a.tar")),
        ],
        "read the log": [client.whole_log],
        "write the log": [lambda: client.append((1, 0, b"x")), client.close_log],
    }


async def verdict(call: Callable[[], Awaitable[object]]) -> StatusCode:
    try:
        await call()
    except grpc.aio.AioRpcError as error:
        if error.code() in (StatusCode.PERMISSION_DENIED, StatusCode.UNAUTHENTICATED):
            assert from_rpc_error(error).reason == error.code().name  # noqa: PT017 - Either outcome is one.
        return error.code()
    return StatusCode.OK


@pytest.mark.parametrize(("right", "ticket"), GRANTS)
async def test_a_ticket_gives_what_it_says_and_nothing_else(
    storage: Any, make_tar: Callable[..., bytes], right: str, ticket: dict[str, str]
) -> None:
    client = await storage.client(**ticket)
    given = {right, IMPLIED.get(right, right)}
    for needed, those in calls(client, make_tar(b"")).items():
        for call in those:
            allowed = await verdict(call) in (StatusCode.OK, StatusCode.NOT_FOUND)
            assert allowed == (needed in given), needed


@pytest.mark.parametrize(
    "ticket",
    [
        {"read_space": BOB, "write_space": BOB, "log": "job-2"},
        {"provider_space": BOB, "provider_log": "job-2"},
        {"read_space": "users"},
        {"provider_space": "users"},
        {"service": "worker"},
    ],
)
async def test_another_users_ticket_opens_nothing(
    storage: Any, make_tar: Callable[..., bytes], ticket: dict[str, str]
) -> None:
    for those in calls(await storage.client(**ticket), make_tar(b"")).values():
        for call in those:
            assert await verdict(call) == StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("service", ["gateway", "qpu_broker"])
async def test_services_may_do_everything(storage: Any, make_tar: Callable[..., bytes], service: str) -> None:
    for those in calls(await storage.client(service=service), make_tar(b"")).values():
        for call in those:
            assert await verdict(call) in (StatusCode.OK, StatusCode.NOT_FOUND)


async def test_without_a_good_ticket_nothing_is_open(storage: Any, client: Any, make_tar: Callable[..., bytes]) -> None:
    rights = {"read_space": ADA, "write_space": ADA, "log": "job-1", "provider_space": ADA, "provider_log": "job-1"}
    good, ended = (Ticket.lasting("ada", seconds, blobs="rw", **rights) for seconds in (60, -60))
    tokens = ["", "nonsense", TicketSigner(b"another key" * 4).sign(good), storage.signer.sign(ended)]
    for token in tokens:
        async with channel(storage.address) as opened:
            for those in calls(type(client)(opened, token), make_tar(b"")).values():
                for call in those:
                    assert await verdict(call) == StatusCode.UNAUTHENTICATED
    assert await client.names() == []


async def test_a_job_of_a_provider_reads_its_files_and_writes_its_log_beside_the_users(
    storage: Any, make_tar: Callable[..., bytes]
) -> None:
    provider, log = "providers/acme/solver", "job-1.provider"
    service = await storage.client(service="gateway")
    await service.put_file("model.tar", make_tar(b"weights"), space=provider)
    rights = {"read_space": ADA, "write_space": ADA, "write_limit_bytes": 10**6, "log": "job-1"}
    job = await storage.client(**rights, provider_space=provider, provider_log=log)
    await job.put_file("a.tar", make_tar(b"mine"))
    assert await job.append((1, 0, b"for the user\n")) == len(b"for the user\n")
    assert await job.append((1, 0, b"for the provider\n"), log=log) == len(b"for the provider\n")
    await job.close_log(log, attempt=1)
    assert await service.whole_log(follow=True, log=log) == b"for the provider\n"
    assert await service.whole_log() == b"for the user\n"
    assert await verdict(lambda: job.whole_log(log=log)) == StatusCode.PERMISSION_DENIED
    job.space = provider
    assert await job.names() == ["model.tar"]
    usage = await job.spaces.GetSpaceUsage(pb.GetSpaceUsageRequest(space=provider))
    assert (usage.file_count, usage.limit_bytes) == (1, 0), "the limit is that of the user's space"
    deletion = pb.DeleteSpaceFileRequest(space=provider, name="model.tar")
    for change in (lambda: job.put_file("b.tar", make_tar(b"")), lambda: job.spaces.DeleteSpaceFile(deletion)):
        assert await verdict(change) == StatusCode.PERMISSION_DENIED


async def test_a_stream_cannot_slip_into_another_log(client: Any, must_refuse: Callable[..., Any]) -> None:
    pieces = [pb.AppendLogRequest(log=log, attempt=1, writer_offset=0, chunk=b"x") for log in ("job-1", "job-2")]
    async with must_refuse(StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "one log"):
        [answer async for answer in client.logs.AppendLog(iter(pieces))]
