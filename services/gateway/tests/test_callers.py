"""Who calls: what is remembered of tokens, and what becomes of calls whose token is withdrawn meanwhile."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from gateway_book import NOW
from prometheus_client import CollectorRegistry
from qonduit_api.v1 import cluster_pb2, cluster_pb2_grpc
from qonduit_gateway.api.callers import CHECK_AGAIN_S, CallerInterceptor, caller, token_digest, user_disabled
from qonduit_gateway.api.user_changes import UserChanges
from qonduit_gateway.database import user_rows
from qonduit_gateway.database.engine import DatabaseUnavailableError
from qonduit_gateway.database.user_rows import Token
from qonduit_gateway.rest.calls import RestCalls
from qonduit_service_kit.errors import from_rpc_error
from qonduit_service_kit.rpc import GrpcServer, channel
from starlette.requests import Request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from gateway_book import Book
    from qonduit_gateway.database.engine import Database
    from starlette.responses import Response

PATIENCE_S = 60.0
MUCH = "x" * 100_000


class Gate:
    """A database whose reads can be held after they are done, or fail."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.reads = 0
        self.away = False
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.read_once = asyncio.Event()

    async def read(self, work: Callable[[Any], Any]) -> Any:
        if self.away:
            raise DatabaseUnavailableError("away")
        self.reads += 1
        found = await self._database.read(work)
        self.read_once.set()
        await self.go_on.wait()
        return found


class Service(cluster_pb2_grpc.ClusterServiceServicer):
    """Says who calls, and streams without an end: once and then nothing, or more than anybody reads."""

    def __init__(self, waiting: asyncio.Semaphore) -> None:
        self._waiting = waiting

    async def GetInfo(self, _request: Any, _context: Any) -> cluster_pb2.GetInfoResponse:  # noqa: N802
        return cluster_pb2.GetInfoResponse(user=caller().name)

    async def WatchWorkers(  # noqa: N802
        self, _request: Any, context: Any
    ) -> AsyncIterator[cluster_pb2.WatchWorkersResponse]:
        flood = ("flood", "1") in context.invocation_metadata()
        yield cluster_pb2.WatchWorkersResponse(workers=[cluster_pb2.Worker(hostname=MUCH * flood)])
        self._waiting.release()
        while flood:
            yield cluster_pb2.WatchWorkersResponse(workers=[cluster_pb2.Worker(hostname=MUCH)])
        await asyncio.Event().wait()


@dataclass
class World:
    book: Book
    database: Gate
    callers: CallerInterceptor
    clock: list[float]
    address: str = ""
    waiting: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))

    async def change(self, what: Callable[[UserChanges], Any]) -> Any:
        made = await self.book.database.write(lambda connection: what(UserChanges(connection, "root", NOW)))
        self.callers.forget()
        return made

    async def withdraw(self, token: str) -> None:
        await self.change(lambda changes: changes.withdraw_token("ada", token_digest(token)[:8]))

    async def who(self, token: str) -> str:
        """Return the name of who calls with a token, or the reason of the refusal."""
        async with channel(self.address, token=token) as opened:
            stub: Any = cluster_pb2_grpc.ClusterServiceStub(opened)
            try:
                return str((await stub.GetInfo(cluster_pb2.GetInfoRequest())).user)
            except grpc.aio.AioRpcError as error:
                return from_rpc_error(error).reason

    async def watch(self, token: str) -> None:
        """Watch for ever; AioRpcError when it is ended."""
        async with channel(self.address, token=token) as opened:
            stub: Any = cluster_pb2_grpc.ClusterServiceStub(opened)
            async for _ in stub.WatchWorkers(cluster_pb2.WatchWorkersRequest()):
                pass

    async def later(self, seconds: float = 2 * CHECK_AGAIN_S) -> None:
        self.clock[0] += seconds
        await self.callers.check_again()


async def to_the_end(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


@pytest.fixture
async def world(book: Book) -> AsyncIterator[World]:
    def tokens(connection: Any) -> None:
        for token in ("first", "second"):
            user_rows.add_token(connection, "ada", Token(token_digest(token), token, NOW))

    await book.database.write(tokens)
    database, clock = Gate(book.database), [1000.0]
    callers = CallerInterceptor(database, lambda: clock[0])  # type: ignore[arg-type]
    made = World(book, database, callers, clock)
    server = GrpcServer(
        lambda to: cluster_pb2_grpc.add_ClusterServiceServicer_to_server(Service(made.waiting), to),
        services=("qonduit_api.v1.ClusterService",),
        interceptors=(callers,),
        registry=CollectorRegistry(),
        stop_grace_s=0.1,
    )
    await server.start()
    made.address = server.address
    yield made
    await server.stop()


async def test_a_token_is_remembered_until_something_is_withdrawn(world: World) -> None:
    assert [await world.who("first") for _ in range(3)] == ["ada"] * 3
    assert world.database.reads == 1
    await world.withdraw("first")
    assert await world.who("first") == "TOKEN_INVALID"
    assert await world.who("second") == "ada"


async def test_what_was_looked_up_before_a_withdrawal_is_not_remembered_after_it(world: World) -> None:
    world.database.go_on.clear()
    slow = asyncio.create_task(world.who("first"))
    await asyncio.wait_for(world.database.read_once.wait(), PATIENCE_S)
    await world.withdraw("first")
    world.database.go_on.set()
    assert await slow == "ada"
    assert await world.who("first") == "TOKEN_INVALID"


async def test_who_is_disabled_is_told_so_and_why(world: World) -> None:
    assert await world.who("first") == "ada"
    await world.change(lambda changes: changes.disable("ada", "Left the lab."))
    async with channel(world.address, token="first") as opened:
        stub: Any = cluster_pb2_grpc.ClusterServiceStub(opened)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetInfo(cluster_pb2.GetInfoRequest())
    refusal = from_rpc_error(caught.value)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "USER_DISABLED")
    assert refusal.text == "The user ada is disabled: Left the lab. Ask an administrator to be let in again."
    await world.change(lambda changes: changes.enable("ada"))
    assert await world.who("first") == "ada"


async def test_a_stream_ends_when_its_token_is_withdrawn_and_others_go_on(world: World) -> None:
    ended, kept = (asyncio.create_task(world.watch(token)) for token in ("first", "second"))
    for _ in range(2):
        await asyncio.wait_for(world.waiting.acquire(), PATIENCE_S)
    await world.later()
    await world.withdraw("first")
    await world.callers.check_again()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(ended, PATIENCE_S)
    assert from_rpc_error(caught.value).reason == "TOKEN_INVALID"
    assert not kept.done()
    await world.change(lambda changes: changes.disable("ada", ""))
    await world.callers.check_again()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(kept, PATIENCE_S)
    assert from_rpc_error(caught.value).reason == "USER_DISABLED"


async def test_a_stream_that_nobody_reads_ends_too(world: World) -> None:
    async with channel(world.address, token="first") as opened:
        stub: Any = cluster_pb2_grpc.ClusterServiceStub(opened)
        call = stub.WatchWorkers(cluster_pb2.WatchWorkersRequest(), metadata=(("flood", "1"),))
        await asyncio.wait_for(call.read(), PATIENCE_S)
        await asyncio.wait_for(world.waiting.acquire(), PATIENCE_S)
        await world.withdraw("first")
        await world.later()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asyncio.wait_for(to_the_end(call), PATIENCE_S)
        assert from_rpc_error(caught.value).reason == "TOKEN_INVALID"


async def test_a_call_that_just_began_and_one_whose_database_is_away_go_on(world: World) -> None:
    watching = asyncio.create_task(world.watch("first"))
    await asyncio.wait_for(world.waiting.acquire(), PATIENCE_S)
    await world.withdraw("first")
    await world.later(CHECK_AGAIN_S / 2)
    world.database.away = True
    await world.later()
    assert await world.who("second") == "DATABASE_UNAVAILABLE"
    assert not watching.done()
    world.database.away = False
    await world.callers.check_again()
    with pytest.raises(grpc.aio.AioRpcError):
        await asyncio.wait_for(watching, PATIENCE_S)


async def test_a_rest_call_that_is_held_ends_as_well(world: World) -> None:
    holding = asyncio.Event()

    async def hold(_request: Request) -> Response:
        holding.set()
        await asyncio.Event().wait()
        raise AssertionError("it waits for ever")

    endpoint = RestCalls(world.callers, CollectorRegistry()).endpoint("GET /held", hold)
    scope = {"type": "http", "method": "GET", "path": "/held", "headers": [(b"authorization", b"Bearer first")]}
    answering = asyncio.ensure_future(endpoint(Request(scope)))
    await asyncio.wait_for(holding.wait(), PATIENCE_S)
    await world.change(lambda changes: changes.disable("ada", "left"))
    await world.later()
    answer = await asyncio.wait_for(answering, PATIENCE_S)
    assert answer.status_code == 403
    assert b"The user ada is disabled: left." in bytes(answer.body)


async def test_a_caller_who_gives_up_is_no_refusal(world: World) -> None:
    watching = asyncio.create_task(world.watch("first"))
    await asyncio.wait_for(world.waiting.acquire(), PATIENCE_S)
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching
    await world.later()
    assert await world.who("first") == "ada"


def test_a_refusal_without_a_reason_reads_well() -> None:
    assert user_disabled("ada", "").text == "The user ada is disabled. Ask an administrator to be let in again."
