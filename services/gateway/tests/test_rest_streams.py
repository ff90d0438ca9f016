"""Texts and results as the REST front streams them, and the polls that it holds."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import struct
import zlib
from typing import TYPE_CHECKING, Any

import pytest
import zstandard
from qonduit_gateway.rest import envelopes
from qonduit_gateway.rest.holding import HOLD_S, YOUNG_S, Polls
from qonduit_gateway.rest.large_results import plain
from qonduit_gateway.segments import MAGIC
from starlette.responses import StreamingResponse

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable

CHUNKS = [1, 7, 1000, 10**9]


async def pieces(data: bytes, size: int) -> AsyncGenerator[bytes, None]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def joined(stream: AsyncIterable[Any]) -> bytes:
    return b"".join([bytes(piece) async for piece in stream])


@pytest.mark.parametrize("size", CHUNKS)
async def test_a_text_of_any_kind_comes_back_from_its_envelope(size: int) -> None:
    text = 'é "quoted" \\ back\n\x00 \U0001f600 ' * 20
    answer = await envelopes.enveloped({"id": "x"}, "result", pieces(text.encode(), size))
    assert json.loads(bytes(answer.body)) == {"id": "x", "result": text}
    assert answer.headers["content-length"] == str(len(answer.body))


@pytest.mark.parametrize("size", [9_999, 10**9])
async def test_a_long_text_streams(size: int) -> None:
    text = 'é "quoted"\n' * 20_000
    answer = await envelopes.enveloped({"id": "x"}, "result", pieces(text.encode(), size))
    assert isinstance(answer, StreamingResponse)
    assert json.loads(await joined(answer.body_iterator)) == {"id": "x", "result": text}


@pytest.mark.parametrize("size", CHUNKS)
async def test_prefixes_go_from_the_beginnings_of_lines_alone(size: int) -> None:
    log = "[PUBLIC] one [PUBLIC] two\n[private] three\n[PUBLIC]four\n[\n[PRIVATE] [PUBLIC] five\n[PRIVA"
    wanted = "one [PUBLIC] two\nthree\n[PUBLIC]four\n[\n[PUBLIC] five\n[PRIVA"
    assert (await joined(envelopes.without_prefixes(pieces(log.encode(), size)))).decode() == wanted


async def test_an_empty_stream_is_known_before_anything_is_answered() -> None:
    assert await envelopes.first_of(pieces(b"", 1)) is None
    begun = await envelopes.first_of(pieces(b"abc", 1))
    assert begun is not None
    assert await joined(begun) == b"abc"


def packed(text: bytes, segments: list[bytes]) -> bytes:
    """Write the form that `qonduit.large_values` tells."""
    data = MAGIC + b"".join(struct.pack("<Q", number) for number in (len(text), len(segments), *map(len, segments)))
    data += text
    for segment in segments:
        data += bytes(-len(data) % 64) + segment
    return data


def reference(kind: str, number: int) -> dict[str, Any]:
    return {"__type__": "segment", "__value__": {"kind": kind, "number": number}}


@pytest.mark.parametrize("size", [9_999, 10**9])
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
async def test_what_is_behind_a_result_comes_within_it(size: int, separators: tuple[str, str]) -> None:
    array, circuit = random.Random(1).randbytes(600_001), b"QISKIT" * 100_000  # noqa: S311 - just bytes.
    value = {
        "filling": "x" * 400_000,
        "second": [reference("qpy.zst", 1), reference("npy", 0)],
        "text": '{"__type__":"segment","__value__":{"kind":"npy","number":0}}',
        "plain": 5,
    }
    text = json.dumps(value, separators=separators).encode()
    made = await joined(plain(pieces(packed(text, [array, zstandard.compress(circuit)]), size)))
    read = json.loads(made)
    first, second = read["second"]
    assert (first["__type__"], second["__type__"]) == ("QuantumCircuit", "ndarray")
    assert zlib.decompress(base64.b64decode(first["__value__"], validate=True)) == circuit
    assert zlib.decompress(base64.b64decode(second["__value__"], validate=True)) == array
    assert {name: read[name] for name in ("filling", "text", "plain")} == {
        name: value[name] for name in ("filling", "text", "plain")
    }


@pytest.mark.parametrize("size", CHUNKS)
@pytest.mark.parametrize("text", [b"5", b'{"a": 1}', b'"QVALUE1"'])
async def test_a_result_that_is_json_alone_stays_as_it_is(size: int, text: bytes) -> None:
    assert await joined(plain(pieces(text, size))) == text


def test_polls_are_held_in_a_jobs_first_seconds_and_in_the_clients_rhythm() -> None:
    now = 1000.0
    polls = Polls(HOLD_S, clock=lambda: now)
    assert polls.hold_s("job", 0.5) == YOUNG_S - 0.5
    assert polls.hold_s("job", YOUNG_S) == 0
    polls.answered("job")
    for seconds, held_s in ((0.1, 0), (4.9, 0), (5.1, HOLD_S), (6, 0), (29.9, 0), (30.05, HOLD_S), (31, 0)):
        now = 1000.0 + seconds
        assert polls.hold_s("job", 60) == held_s, seconds
        assert polls.hold_s("another", 60) == 0
    now = 1030.05
    polls.over("job")
    assert polls.hold_s("job", 60) == 0


async def test_what_is_held_is_answered_when_the_gateway_stops() -> None:
    polls = Polls(HOLD_S)

    async def held() -> str:
        try:
            async with polls.holding(10_000):
                await asyncio.Event().wait()
        except TimeoutError:
            return "answered"
        return "never"

    waiting = asyncio.create_task(held())
    await asyncio.sleep(0)
    polls.release()
    assert await asyncio.wait_for(waiting, 60) == "answered"
    assert polls.hold_s("job", 0) == 0


def test_nothing_is_held_where_that_is_switched_off() -> None:
    polls = Polls(0, clock=lambda: 1030.0)
    polls.answered("job")
    assert polls.hold_s("job", 0) == 0
