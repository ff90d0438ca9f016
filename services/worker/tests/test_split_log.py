"""What of a provider's program goes to the user's log, and what to the provider's."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qonduit_worker.log_pump import MOST_UNCONFIRMED_BYTES, LogPump
from qonduit_worker.split_log import LINE_BYTES, LineDealer, SplitLog

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def dealt(*chunks: bytes) -> tuple[bytes, bytes]:
    """Return what goes to the user's log and to the provider's."""
    dealer = LineDealer()
    parts = [*map(dealer.feed, chunks), dealer.rest()]
    return b"".join(bytes(part.public) for part in parts), b"".join(bytes(part.private) for part in parts)


@pytest.mark.parametrize(
    ("line", "public", "private"),
    [
        (b"[PUBLIC] shown\n", b"shown\n", b""),
        (b"[Public] shown\n", b"shown\n", b""),
        (b"[PUBLIC]shown\n", b"shown\n", b""),
        (b"[PUBLIC]   indented\n", b"  indented\n", b""),
        (b"[PUBLIC]\n", b"\n", b""),
        (b"[PRIVATE] hidden\n", b"", b"hidden\n"),
        (b"[private]hidden\n", b"", b"hidden\n"),
        (b"plain\n", b"", b"plain\n"),
        (b"\n", b"", b"\n"),
        (b" [PUBLIC] later\n", b"", b" [PUBLIC] later\n"),
        (b"[PRIVATE] [PUBLIC] twice\n", b"", b"[PUBLIC] twice\n"),
        (b"[PUBLIC] [PRIVATE] twice\n", b"[PRIVATE] twice\n", b""),
        (b"[qonduit] forged\n", b"", b"[qonduit] forged\n"),
        (b"[PUBLIC] windows\r\n", b"windows\r\n", b""),
        (b"\xff[PUBLIC]\xfe\n", b"", b"\xff[PUBLIC]\xfe\n"),
        (b"[PUBLIC] no end", b"no end", b""),
        (b"[PUBL", b"", b"[PUBL"),
    ],
)
def test_a_line_goes_where_its_tag_says(line: bytes, public: bytes, private: bytes) -> None:
    assert dealt(line) == (public, private)


@given(
    st.lists(st.one_of(st.binary(max_size=30), st.sampled_from([b"\n", b"[PUBLIC] ", b"[private]"])), max_size=20),
    st.data(),
)
def test_it_makes_no_difference_how_the_output_is_cut_in_reads(parts: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    chunks = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert dealt(*chunks) == dealt(whole)


@given(
    st.lists(st.tuples(st.sampled_from([b"", b"[PUBLIC] ", b"[private]", b"x"]), st.sampled_from([b"", b"[PUBLIC]y"])))
)
def test_many_lines_go_where_each_alone_would(lines: list[tuple[bytes, bytes]]) -> None:
    whole = [tag + text + b"\n" for tag, text in lines]
    alone = [dealt(line) for line in whole]
    assert dealt(b"".join(whole)) == (b"".join(public for public, _ in alone), b"".join(other for _, other in alone))


def test_only_whole_lines_go_out() -> None:
    dealer = LineDealer()
    assert bytes(dealer.feed(b"[PUBLIC] beg").public) == b""
    assert bytes(dealer.feed(b"un\n[PUBLIC] next").public) == b"begun\n"


def test_a_line_without_end_is_not_kept_and_goes_on_where_it_began() -> None:
    dealer = LineDealer()
    private = bytearray()
    for _ in range(100):
        told = dealer.feed(b"x" * LINE_BYTES + b"[PUBLIC]")
        assert not told.public
        private += told.private
    assert len(private) >= 98 * LINE_BYTES
    private += dealer.feed(b"[PUBLIC] still the same line\n[PUBLIC] another\n").private
    assert len(private) == 100 * (LINE_BYTES + 8) + len(b"[PUBLIC] still the same line\n")


class SlowStorage:
    """The storage service's logs; takes what it is sent once `open` is set for that log."""

    def __init__(self) -> None:
        self.logs: dict[str, bytes] = {}
        self.closed: list[tuple[str, int]] = []
        self.open = {name: asyncio.Event() for name in ("user", "provider")}
        self.much = asyncio.Event()
        """Set once a log has nearly as much as may be unconfirmed of the other."""

    async def append_log(self, log: str, attempt: int, pieces: AsyncIterator[tuple[int, bytes]]) -> AsyncIterator[int]:
        assert attempt == 3
        await self.open[log].wait()
        async for offset, piece in pieces:
            assert offset == len(self.logs.get(log, b""))
            self.logs[log] = self.logs.get(log, b"") + piece
            if len(self.logs[log]) > 0.8 * MOST_UNCONFIRMED_BYTES:
                self.much.set()
            yield offset + len(piece)

    async def close_log(self, log: str, attempt: int) -> None:
        self.closed.append((log, attempt))


async def test_a_program_waits_for_the_slower_of_its_logs_and_loses_nothing() -> None:
    storage = SlowStorage()
    storage.open["user"].set()
    pumps = (LogPump(storage, log=name, attempt=3) for name in ("user", "provider"))  # type: ignore[arg-type]
    log = SplitLog(*pumps)
    output = asyncio.StreamReader()
    lines = b"[PUBLIC] " + b"u" * 90 + b"\n" + b"p" * 99 + b"\n"
    repeats = 2 * MOST_UNCONFIRMED_BYTES // 100
    output.feed_data(lines * repeats)
    output.feed_eof()
    pumping = asyncio.create_task(log.pump(output))
    await asyncio.wait_for(storage.much.wait(), 60)
    assert not pumping.done()
    assert len(storage.logs["user"]) < 0.6 * 91 * repeats
    storage.open["provider"].set()
    await pumping
    await log.note("a word of the system")
    await log.flush()
    note = b"[qonduit] a word of the system\n"
    assert storage.logs["user"] == (b"u" * 90 + b"\n") * repeats + note
    assert storage.logs["provider"] == (b"p" * 99 + b"\n") * repeats + note
    await log.close(5)
    assert sorted(storage.closed) == [("provider", 3), ("user", 3)]
