"""Both ends of the channel between a program and its agent, on a real socket."""

from __future__ import annotations

import asyncio
import functools
import os
import socket
import struct
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from qonduit.program.channel import MAX_FRAME_BYTES, AgentChannel, AgentError, AgentGoneError, encode_frame
from qonduit_worker.program_channel import MAX_REQUEST_BYTES, MAX_UNSENT_BYTES, ProgramServer, RequestError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from qonduit_worker.program_channel import ProgramSession


async def echo(_: ProgramSession, fields: Mapping[str, Any]) -> Any:
    return fields.get("value")


async def refuse(_: ProgramSession, fields: Mapping[str, Any]) -> None:
    del fields
    raise RequestError("NOT_TODAY", "come back tomorrow")


async def fail(_: ProgramSession, fields: Mapping[str, Any]) -> None:
    raise KeyError(fields.get("secret"))


async def subscribe(session: ProgramSession, fields: Mapping[str, Any]) -> None:
    del fields
    session.wants_pushes = True


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not pytest's own, whose name is longer than a socket's may be.
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


@pytest_asyncio.fixture
async def server(folder: Path) -> AsyncIterator[ProgramServer]:
    made = ProgramServer(folder / "agent.sock")
    for name, handler in (("echo", echo), ("refuse", refuse), ("fail", fail), ("subscribe", subscribe)):
        made.register(name, handler)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
def channel(server: ProgramServer) -> Iterator[AgentChannel]:
    made = AgentChannel(str(server._path))
    yield made
    made.close()


async def test_a_call_returns_its_value(channel: AgentChannel) -> None:
    for value in (None, 1, "text", b"\0" * (2 * 1024**2), {"list": [1, 2.5]}):
        assert await asyncio.to_thread(channel.call, "echo", value=value) == value


async def test_refusals_and_faults_are_told_apart(channel: AgentChannel) -> None:
    with pytest.raises(AgentError, match="come back tomorrow") as refused:
        await asyncio.to_thread(channel.call, "refuse")
    assert refused.value.kind == "NOT_TODAY"
    with pytest.raises(AgentError) as failed:
        await asyncio.to_thread(channel.call, "fail", secret="hidden")
    assert failed.value.kind == "INTERNAL"
    assert "hidden" not in failed.value.text
    with pytest.raises(AgentError) as unknown:
        await asyncio.to_thread(channel.call, "no_such_thing")
    assert unknown.value.kind == "UNKNOWN_OPERATION"


async def test_threads_share_a_channel_also_once_pushes_come(server: ProgramServer, channel: AgentChannel) -> None:

    def both() -> list[Any]:
        pushed = threading.Event()
        channel.on_push("news", lambda fields: pushed.set() if fields["number"] == 7 else None)
        channel.call("subscribe")
        results: list[Any] = [None] * 20
        threads = [
            threading.Thread(target=lambda at=at: results.__setitem__(at, channel.call("echo", value=at)))
            for at in range(20)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        loop.call_soon_threadsafe(functools.partial(server.push, "news", number=7))
        assert pushed.wait(60)
        return results

    loop = asyncio.get_running_loop()
    assert await asyncio.to_thread(both) == list(range(20))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
async def test_a_forked_child_has_a_connection_of_its_own(channel: AgentChannel) -> None:
    assert await asyncio.to_thread(channel.call, "echo", value="parent") == "parent"
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if channel.call("echo", value="child") == "child" else 1)
        finally:
            os._exit(2)
    _, status = await asyncio.to_thread(os.waitpid, pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert await asyncio.to_thread(channel.call, "echo", value="still here") == "still here"


async def test_a_closed_channel_is_an_error_and_no_hang(server: ProgramServer, channel: AgentChannel) -> None:
    await asyncio.to_thread(channel.call, "echo", value=1)
    await server.stop()
    with pytest.raises(AgentGoneError):
        await asyncio.to_thread(channel.call, "echo", value=2)


@pytest.mark.parametrize(
    "junk",
    [
        struct.pack(">I", MAX_FRAME_BYTES + 1),
        struct.pack(">I", 4) + b"\xc1\xc1\xc1\xc1",
        struct.pack(">I", 1) + b"\x05",
        struct.pack(">I", 5) + b"\x81\x01\xa3abc"[:5],
        b"\0\0",
        struct.pack(">I", 8 + 10**6) + b"\x81\xa1x\xdd" + struct.pack(">I", 10**6) + b"\x90" * 10**6,
    ],
    ids=["too long", "not msgpack", "no map", "cut off", "half a header", "a million lists"],
)
async def test_bad_frames_end_one_connection_and_nothing_else(
    server: ProgramServer, channel: AgentChannel, junk: bytes
) -> None:
    reader, writer = await asyncio.open_unix_connection(server._path)
    writer.write(junk)
    writer.write_eof()
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    assert await asyncio.to_thread(channel.call, "echo", value=3) == 3


async def test_a_program_that_does_not_read_holds_up_nobody_and_is_cut_off(server: ProgramServer) -> None:
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.connect(str(server._path))
        deaf.sendall(encode_frame({"id": 1, "op": "subscribe"}))
        await asyncio.to_thread(deaf.recv, 1024)
        for _ in range(80):
            server.push("news", data=b"x" * 1024**2)
        taken = 0
        while data := await asyncio.to_thread(deaf.recv, 1024**2):
            taken += len(data)
        assert taken < 80 * 1024**2


async def test_many_deaf_processes_of_a_program_hold_no_more_memory_than_one(server: ProgramServer) -> None:
    deaf = [socket.socket(socket.AF_UNIX) for _ in range(8)]
    for one in deaf:
        one.connect(str(server._path))
        one.sendall(encode_frame({"id": 1, "op": "subscribe"}))
        await asyncio.to_thread(one.recv, 1024)
    for _ in range(30):
        server.push("news", data=b"x" * 1024**2)
    assert sum(session.unsent_bytes for session in server._sessions) <= MAX_UNSENT_BYTES
    for one in deaf:
        one.close()


async def test_requests_that_take_long_hold_a_bounded_number_of_bytes(server: ProgramServer) -> None:
    held: list[int] = []
    full, go_on = asyncio.Event(), asyncio.Event()

    async def hold(_: ProgramSession, fields: Mapping[str, Any]) -> None:
        held.append(len(fields["junk"]))
        if len(held) == MAX_REQUEST_BYTES // MAX_FRAME_BYTES:
            full.set()
        await go_on.wait()

    server.register("hold", hold)
    frame = encode_frame({"id": 1, "op": "hold", "junk": bytes(MAX_FRAME_BYTES - 100)})
    connections = [await asyncio.open_unix_connection(server._path) for _ in range(20)]
    for _, writer in connections:
        writer.write(frame)
    await asyncio.wait_for(full.wait(), 60)
    for _ in range(1000):  # Turns of the event loop in which the others could come in.
        await asyncio.sleep(0)
    assert len(held) == MAX_REQUEST_BYTES // MAX_FRAME_BYTES
    go_on.set()
    for reader, writer in connections:
        await asyncio.wait_for(reader.readexactly(4), 60)
        writer.close()
    assert len(held) == 20


async def test_a_socket_deep_down_is_reached_all_the_same(folder: Path) -> None:
    folder = folder.joinpath(*["a-folder-with-a-long-name"] * 5)
    folder.mkdir(parents=True)
    server = ProgramServer(folder / "agent.sock")
    server.register("echo", echo)
    await server.start()
    channel = AgentChannel(str(folder / "agent.sock"))
    assert await asyncio.to_thread(channel.call, "echo", value="deep") == "deep"
    channel.close()
    await server.stop()
