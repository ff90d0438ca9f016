"""Large bytes between a program and its agent, on a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import tempfile
import threading
from mmap import mmap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgpack
import pytest
import pytest_asyncio
from blob_world import World
from qonduit.program.blobs import (
    PART_BYTES,
    SMALLEST_MAPPED_BYTES,
    SOCKET_NAME,
    WINDOW_BYTES,
    _BlobConnection,
    _forget_connections,
    fetch_blob,
    fetch_view,
    store_blob,
    store_parts,
)
from qonduit.program.channel import AgentChannel, AgentError, AgentGoneError
from qonduit_worker.blob_server import BlobServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

HOME_BYTES = 2**30
"""The largest value."""


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not pytest's own, whose name is longer than a socket's may be.
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


@pytest.fixture
def world(folder: Path) -> World:
    made = World(folder)
    made.add_worker("home", capacity_bytes=2 * HOME_BYTES)
    return made


@pytest_asyncio.fixture
async def server(world: World) -> AsyncIterator[BlobServer]:
    blobs = world.blobs()
    made = BlobServer(world.folder / SOCKET_NAME, blobs)
    await made.start()
    yield made
    await made.stop()
    await blobs.close()
    assert world.files() == []


@pytest.fixture
def channel(server: BlobServer) -> Iterator[AgentChannel]:
    yield AgentChannel(str(server._path.with_name("agent.sock")))
    _forget_connections()


def there_and_back(channel: AgentChannel) -> bytes:
    """Tell that the agent still serves."""
    return fetch_blob(channel, store_blob(channel, b"x"))


@pytest.mark.parametrize(
    "size", [0, 1, SMALLEST_MAPPED_BYTES, PART_BYTES, PART_BYTES + 1, 2 * WINDOW_BYTES + 12345], ids=str
)
async def test_bytes_come_back_as_they_were(channel: AgentChannel, size: int) -> None:
    data = os.urandom(size)

    def come_back() -> None:
        name = store_blob(channel, data)
        assert fetch_blob(channel, name) == data
        view = fetch_view(channel, name)
        assert view.readonly
        assert (view.format, view.ndim) == ("B", 1)
        assert view == data

    await asyncio.to_thread(come_back)


async def test_parts_are_stored_one_after_another_whatever_their_items(channel: AgentChannel) -> None:
    numbers = memoryview(bytearray(range(240))).cast("d", (5, 6))
    parts: list[Any] = [b"head", bytearray(3 * PART_BYTES + 1), memoryview(b""), numbers, *[b"ab"] * 2000]
    digest = await asyncio.to_thread(store_parts, channel, parts)
    expected = b"head" + bytes(3 * PART_BYTES + 1) + bytes(range(240)) + b"ab" * 2000
    assert await asyncio.to_thread(fetch_blob, channel, digest) == expected
    with pytest.raises(TypeError):
        await asyncio.to_thread(store_parts, channel, [memoryview(b"abcd")[::2]])


async def test_a_view_outlives_its_descriptor_the_file_and_the_connection(
    server: BlobServer, channel: AgentChannel, world: World
) -> None:
    data = os.urandom(PART_BYTES)
    name = await asyncio.to_thread(store_blob, channel, data)
    view = await asyncio.to_thread(fetch_view, channel, name)
    world.caches["home"].scope("job", 1).release(name)  # type: ignore[union-attr]
    await server.stop()
    assert world.files() == []
    assert view == data


async def test_views_beyond_those_that_may_be_mapped_are_copies(
    channel: AgentChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qonduit.program.blobs.MOST_MAPPINGS", 2)
    data = os.urandom(SMALLEST_MAPPED_BYTES)

    def view_often() -> list[type]:
        digest = store_blob(channel, data)
        views = [fetch_view(channel, digest) for _ in range(3)]
        assert views == [data] * 3
        return [type(view.obj) for view in views]

    assert await asyncio.to_thread(view_often) == [mmap, mmap, bytes]
    assert await asyncio.to_thread(view_often) == [mmap, mmap, bytes]


async def test_a_program_cannot_change_what_it_stored(channel: AgentChannel, server: BlobServer) -> None:
    data = os.urandom(PART_BYTES)

    def overwrite_the_window() -> None:
        connection = _BlobConnection(str(server._path))
        digest = connection.store([memoryview(data)])
        os.pwrite(connection._window, bytes(PART_BYTES), 0)
        assert fetch_blob(channel, digest) == data
        for size in (0, 2 * WINDOW_BYTES):
            with pytest.raises(PermissionError):
                os.ftruncate(connection._window, size)
        connection.close()

    await asyncio.to_thread(overwrite_the_window)


async def test_a_descriptor_is_read_only(channel: AgentChannel, server: BlobServer) -> None:
    def write() -> None:
        connection = _BlobConnection(str(server._path))
        descriptor, _ = connection.open(store_blob(channel, b"bytes"))
        for change in (lambda: os.pwrite(descriptor, b"other", 0), lambda: os.ftruncate(descriptor, 0)):
            with pytest.raises(OSError, match=r"Bad file descriptor|Invalid argument"):
                change()
        os.close(descriptor)
        connection.close()

    await asyncio.to_thread(write)


async def test_a_blob_that_is_not_there_is_an_error_and_no_end(channel: AgentChannel) -> None:
    for name in ("0" * 64, "local-999"):
        with pytest.raises(AgentError) as missing:
            await asyncio.to_thread(fetch_view, channel, name)
        assert missing.value.kind == "BLOB_NOT_FOUND"
    assert await asyncio.to_thread(there_and_back, channel) == b"x"


async def test_what_does_not_fit_is_refused_before_it_is_sent(channel: AgentChannel, server: BlobServer) -> None:
    def store_too_much() -> None:
        with contextlib.closing(_BlobConnection(str(server._path))) as connection:
            connection._send(op="part", at=0, size=1, total=HOME_BYTES + 1)
            connection._answer()

    with pytest.raises(AgentError, match=f"{HOME_BYTES:,}") as refused:
        await asyncio.to_thread(store_too_much)
    assert refused.value.kind == "BLOB_TOO_LARGE"
    assert await asyncio.to_thread(there_and_back, channel) == b"x"


@pytest.mark.parametrize(
    ("packet", "kind"),
    [
        (b"\xc1", "INVALID_REQUEST"),
        (b"\x05", "INVALID_REQUEST"),
        (msgpack.packb({"op": "no such thing"}), "UNKNOWN_OPERATION"),
        (msgpack.packb({"op": "open", "digest": "../../etc/passwd"}), "INVALID_REQUEST"),
        (msgpack.packb({"op": "open", "digest": "local-1/../local-1"}), "INVALID_REQUEST"),
        (msgpack.packb({"op": "open", "digest": "local-01"}), "INVALID_REQUEST"),
        (msgpack.packb({"op": "part", "at": WINDOW_BYTES, "size": 1, "total": 1}), "INVALID_REQUEST"),
        (msgpack.packb({"op": "part", "at": 0, "size": -1, "total": 1}), "INVALID_REQUEST"),
        (msgpack.packb({"op": "part", "at": 0, "size": 2, "total": 1}), "TOO_MANY_BYTES"),
        (msgpack.packb({"op": "part", "at": 0, "size": 1, "total": "1"}), "INVALID_REQUEST"),
    ],
    ids=range(10),
)
async def test_bad_requests_are_refused_and_nothing_is_left_of_them(
    server: BlobServer, channel: AgentChannel, world: World, packet: bytes, kind: str
) -> None:
    def send() -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.connect(str(server._path))
            connection.sendall(packet)
            answer: dict[str, Any] = msgpack.unpackb(connection.recv(8192))
            return answer

    assert (await asyncio.to_thread(send))["kind"] == kind
    assert world.files() == []
    assert await asyncio.to_thread(there_and_back, channel) == b"x"


async def test_a_program_that_dies_in_the_middle_leaves_nothing(server: BlobServer, world: World) -> None:
    def begin() -> None:
        connection = _BlobConnection(str(server._path))
        connection._ask(op="window")
        connection._send(op="part", at=0, size=PART_BYTES, total=HOME_BYTES)
        connection._answer()
        assert len(world.files()) == 1
        connection.close()

    await asyncio.to_thread(begin)
    await asyncio.gather(*server._connections)
    assert world.files() == []
    # Its room is free again, all of it.
    (await world.blobs().begin(HOME_BYTES)).discard()


async def test_a_program_that_does_not_read_its_answers_is_cut_off(server: BlobServer, channel: AgentChannel) -> None:
    def never_read() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as deaf:
            deaf.connect(str(server._path))
            while True:
                deaf.sendall(msgpack.packb({"op": "window"}))

    with pytest.raises(OSError, match=r"Broken pipe|reset"):
        await asyncio.wait_for(asyncio.to_thread(never_read), 60)
    assert await asyncio.to_thread(there_and_back, channel) == b"x"


async def test_threads_store_and_fetch_side_by_side(channel: AgentChannel) -> None:
    values = [os.urandom(PART_BYTES + at) for at in range(6)]
    came_back = [False] * len(values)

    def store_and_fetch(at: int) -> None:
        came_back[at] = fetch_view(channel, store_blob(channel, values[at])) == values[at]

    def side_by_side() -> None:
        threads = [threading.Thread(target=store_and_fetch, args=(at,)) for at in range(len(values))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

    await asyncio.to_thread(side_by_side)
    assert all(came_back)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
async def test_a_forked_child_has_connections_of_its_own(channel: AgentChannel) -> None:
    name = await asyncio.to_thread(store_blob, channel, b"parent")
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if there_and_back(channel) == b"x" and fetch_blob(channel, name) == b"parent" else 1)
        finally:
            os._exit(2)
    _, status = await asyncio.to_thread(os.waitpid, pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert await asyncio.to_thread(there_and_back, channel) == b"x"


async def test_an_agent_that_is_gone_is_an_error_and_no_hang(server: BlobServer, channel: AgentChannel) -> None:
    digest = await asyncio.to_thread(store_blob, channel, b"x")
    await server.stop()
    with pytest.raises(AgentGoneError):
        await asyncio.to_thread(fetch_view, channel, digest)
