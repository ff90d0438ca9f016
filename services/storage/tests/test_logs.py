"""Logs over gRPC."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc import StatusCode
from qonduit_api.internal.v1 import storage_pb2 as pb
from qonduit_service_kit.rpc import from_rpc_error

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.parametrize("kept", ["directory"], indirect=True)

LINES = b"".join(b"line %06d of a program that prints without end\n" % number for number in range(20_000))


async def test_what_is_appended_is_read(client: Any) -> None:
    assert await client.append((1, 0, b"one\n"), (1, 4, b"two\n")) == 8
    assert await client.whole_log() == b"one\ntwo\n"
    assert await client.whole_log(4) == b"two\n"
    assert await client.whole_log(8) == b""


async def tail(client: Any, lines: int, **options: Any) -> bytes:
    call = client.logs.ReadLog(pb.ReadLogRequest(log="job-1", tail_lines=lines, **options))
    return b"".join([answer.chunk async for answer in call])


async def test_the_last_lines_are_found(make_storage: Callable[..., Any], must_refuse: Callable[..., Any]) -> None:
    client = await (await make_storage(log_segment_bytes=5000)).client()
    assert await tail(client, 3) == b""
    await client.append((1, 0, LINES))
    lines = LINES.splitlines(keepends=True)
    for count in (1, 2, 500, 19_999, 20_000, 30_000):
        assert await tail(client, count) == b"".join(lines[-count:])
    end = await client.append((1, len(LINES), b"no end yet"))
    assert await tail(client, 1) == b"no end yet"
    assert await tail(client, 2) == lines[-1] + b"no end yet"
    following = asyncio.create_task(tail(client, 1, follow=True))
    await client.append((1, end, b", and now\n"))
    await client.close_log()
    assert await following == b"no end yet, and now\n"
    async with must_refuse(StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "negative"):
        await tail(client, -1)


async def test_the_last_lines_of_a_capped_log_are_those_that_are_kept(make_storage: Callable[..., Any]) -> None:
    client = await (await make_storage(log_cap_bytes=20_000, log_segment_bytes=5000)).client()
    await client.append((1, 0, LINES))
    assert await tail(client, 2) == b"".join(LINES.splitlines(keepends=True)[-2:])
    assert LINES.endswith(await tail(client, 100_000))


async def test_a_piece_that_comes_again_is_dropped(client: Any) -> None:
    await client.append((1, 0, b"one\n"), (1, 4, b"two\n"))
    assert await client.append((1, 0, b"one\n"), (1, 2, b"e\ntwo\nthree\n")) == 14
    assert await client.whole_log() == b"one\ntwo\nthree\n"


async def test_a_gap_is_refused_with_the_offset_to_send_from(client: Any) -> None:
    await client.append((1, 0, b"one\n"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.append((1, 9, b"three\n"))
    error = from_rpc_error(caught.value)
    assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "LOG_GAP")
    assert error.metadata == {"expected_offset": "4"}


async def test_a_newer_attempt_goes_on_and_shuts_the_older_out(client: Any, must_refuse: Callable[..., Any]) -> None:
    await client.append((1, 0, b"first\n"))
    assert await client.append((2, 0, b"second\n")) == 7
    async with must_refuse(StatusCode.FAILED_PRECONDITION, "STALE_ATTEMPT", "must stop"):
        await client.append((1, 6, b"late\n"))
    assert await client.whole_log() == b"first\nsecond\n"


async def test_what_came_before_a_refused_piece_is_confirmed(client: Any) -> None:
    pieces = [
        pb.AppendLogRequest(log="job-1", attempt=1, writer_offset=0, chunk=b"good\n"),
        pb.AppendLogRequest(log="job-1", attempt=1, writer_offset=99, chunk=b"gap\n"),
    ]
    stream = client.logs.AppendLog(iter(pieces))
    assert (await stream.read()).writer_offset == 5
    with pytest.raises(grpc.aio.AioRpcError):
        await stream.read()


async def test_a_follower_is_told_at_once_and_ends_when_the_log_is_closed(client: Any) -> None:
    follower = client.read_log(follow=True)
    writer = client.logs.AppendLog()
    for offset, line in ((0, b"one\n"), (4, b"two\n"), (8, b"six\n")):
        await writer.write(pb.AppendLogRequest(log="job-1", attempt=1, writer_offset=offset, chunk=line))
        answer = await asyncio.wait_for(follower.read(), 60)
        assert (answer.offset, answer.chunk) == (offset, line)
    await writer.done_writing()
    assert [answer.writer_offset async for answer in writer][-1] == 12
    await client.close_log()
    assert await asyncio.wait_for(follower.read(), 60) is grpc.aio.EOF


async def test_confirmations_come_while_the_stream_is_open(client: Any) -> None:
    writer = client.logs.AppendLog()
    await writer.write(pb.AppendLogRequest(log="job-1", attempt=1, writer_offset=0, chunk=b"one\n"))
    assert (await asyncio.wait_for(writer.read(), 60)).writer_offset == 4
    await writer.done_writing()
    assert await asyncio.wait_for(writer.read(), 60) is not None


async def test_closing_before_anything_was_written_ends_followers(client: Any) -> None:
    reading = asyncio.ensure_future(client.whole_log(follow=True))
    await client.close_log()
    assert await asyncio.wait_for(reading, 60) == b""
    await client.close_log()


async def test_appending_opens_a_closed_log_but_a_repetition_does_not(client: Any) -> None:
    await client.append((1, 0, b"one\n"))
    await client.close_log()
    await client.append((1, 0, b"one\n"))
    assert await client.whole_log(follow=True) == b"one\n"
    await client.append((2, 0, b"two\n"))
    follower = client.read_log(follow=True)
    assert (await asyncio.wait_for(follower.read(), 60)).chunk == b"one\ntwo\n"
    await client.close_log()
    assert await asyncio.wait_for(follower.read(), 60) is grpc.aio.EOF


async def test_an_old_attempt_does_not_close_the_log_of_a_newer_one(
    client: Any, must_refuse: Callable[..., Any]
) -> None:
    await client.append((1, 0, b"one\n"))
    await client.append((2, 0, b"two\n"))
    async with must_refuse(StatusCode.FAILED_PRECONDITION, "STALE_ATTEMPT"):
        await client.close_log(attempt=1)
    follower = client.read_log(offset=8, follow=True)
    await client.append((2, 4, b"six\n"))
    assert (await asyncio.wait_for(follower.read(), 60)).chunk == b"six\n"
    await client.close_log(attempt=2)
    assert await asyncio.wait_for(follower.read(), 60) is grpc.aio.EOF


async def test_a_log_survives_a_restart(make_storage: Callable[..., Any], must_refuse: Callable[..., Any]) -> None:
    first = await make_storage()
    client = await first.client()
    await client.append((1, 0, b"first\n"))
    await client.append((2, 0, b"second\n"))
    await first.stop()
    second = await make_storage()
    client = await second.client()
    async with must_refuse(StatusCode.FAILED_PRECONDITION, "STALE_ATTEMPT"):
        await client.append((1, 6, b"late\n"))
    assert await client.append((2, 0, b"second\n"), (2, 7, b"third\n")) == 13
    await client.close_log()
    await second.stop()
    client = await (await make_storage()).client()
    assert await client.whole_log(follow=True) == b"first\nsecond\nthird\n"


async def test_the_service_stops_while_somebody_follows_and_writes(
    storage: Any, client: Any, must_refuse: Callable[..., Any]
) -> None:
    writer = client.logs.AppendLog()
    await writer.write(pb.AppendLogRequest(log="job-1", attempt=1, writer_offset=0, chunk=b"one\n"))
    follower = client.read_log(follow=True)
    assert (await follower.read()).chunk == b"one\n"
    parts = list(storage.parts)
    await asyncio.wait_for(parts[-1].stop(), 60)
    async with must_refuse(StatusCode.UNAVAILABLE, "STOPPING", "go on from this offset"):
        await follower.read()
    async with must_refuse(StatusCode.UNAVAILABLE, "STOPPING"):
        [answer async for answer in writer]
    await asyncio.wait_for(storage.stop(), 60)


NOTE = re.compile(rb"\[qonduit: ([0-9,]+) earlier bytes of this log were dropped; the limit is 65,537 bytes\]\n")
CAP = {"log_cap_bytes": 65_537, "log_segment_bytes": 8_192}


async def test_beyond_the_cap_the_newest_are_kept_and_a_note_says_so(make_storage: Callable[..., Any]) -> None:
    storage = await make_storage(**CAP)
    client = await storage.client()
    pieces = [(1, at, LINES[at : at + 5000]) for at in range(0, len(LINES), 5000)]
    assert await client.append(*pieces) == len(LINES)
    kept = sum(path.stat().st_size for path in (storage.data / "logs").rglob("*.log"))
    assert CAP["log_cap_bytes"] <= kept <= CAP["log_cap_bytes"] + 2 * CAP["log_segment_bytes"]

    answers = [answer async for answer in client.read_log()]
    note = NOTE.fullmatch(answers[0].chunk)
    assert note
    offset = answers[0].offset
    for answer in answers:
        assert answer.offset == offset
        offset += len(answer.chunk)
    assert offset == len(LINES)
    rest = b"".join(answer.chunk for answer in answers[1:])
    assert LINES.endswith(b"\n" + rest)
    assert int(note[1].replace(b",", b"")) == len(LINES) - len(rest)
    assert len(rest) > CAP["log_cap_bytes"] - 100
    assert await client.whole_log(len(LINES) - 100) == LINES[-100:]


async def test_the_note_never_reaches_back_before_the_offset_asked_for(make_storage: Callable[..., Any]) -> None:
    storage = await make_storage(**CAP)
    client = await storage.client()
    await client.append((1, 0, LINES))
    oldest = min(int(path.stem) for path in (storage.data / "logs").rglob("*.log"))
    for asked in (oldest - 1, oldest - 127, oldest - 128, oldest - 129, oldest - 5000):
        answers = [answer async for answer in client.read_log(asked)]
        assert NOTE.fullmatch(answers[0].chunk)
        assert answers[0].offset >= asked
        assert answers[1].offset == answers[0].offset + len(answers[0].chunk)
    assert await client.whole_log(oldest) == LINES[oldest:]


async def test_a_capped_log_is_found_again(make_storage: Callable[..., Any]) -> None:
    first = await make_storage(**CAP)
    client = await first.client()
    await client.append((1, 0, LINES))
    before = await client.whole_log()
    await first.stop()
    client = await (await make_storage(**CAP)).client()
    assert await client.whole_log() == before
    assert await client.append((1, len(LINES), b"the end\n")) == len(LINES) + 8
    assert (await client.whole_log()).endswith(LINES[-1000:] + b"the end\n")


async def test_an_offset_outside_is_refused(client: Any, must_refuse: Callable[..., Any]) -> None:
    await client.append((1, 0, b"one\n"))
    for offset in (-1, 5):
        async with must_refuse(StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "has 4 bytes"):
            await client.whole_log(offset)


async def test_reading_a_log_that_nobody_wrote_leaves_no_trace(storage: Any, client: Any) -> None:
    assert await client.whole_log() == b""
    assert not (storage.data / "logs").exists()
