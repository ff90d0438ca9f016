from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qonduit_worker.tasks.output import Prefixer, whole_lines


def mark(number: int, name: str = "f") -> bytes:
    return b"\x1eqonduit-task %d %b\x1f" % (number, name.encode())


def printed(*chunks: bytes, tagged: bool = False) -> bytes:
    prefixer = Prefixer(tagged=tagged)
    return b"".join([*map(prefixer.feed, chunks), prefixer.rest()])


def test_each_line_has_its_task_before_it() -> None:
    text = b"before any task\n" + mark(3) + b"one\ntwo\n" + mark(12, "transpile it") + b"three\n"
    assert printed(text) == (b"before any task\n[task 3 f] one\n[task 3 f] two\n[task 12 transpile it] three\n")


def test_a_line_without_an_end_is_ended_before_the_next_task_and_at_the_end() -> None:
    assert printed(mark(1) + b"no end", mark(2) + b"nor here") == b"[task 1 f] no end\n[task 2 f] nor here\n"


def test_only_whole_lines_go_out() -> None:
    prefixer = Prefixer()
    assert prefixer.feed(mark(1) + b"begun") == b""
    assert prefixer.feed(b" and ended\nnext") == b"[task 1 f] begun and ended\n"
    assert prefixer.rest() == b"[task 1 f] next\n"
    assert prefixer.rest() == b""


@pytest.mark.parametrize(
    "forged",
    [
        b"\x1eqonduit-task x f\x1fhello\n",
        b"\x1eqonduit-task 99999999999999999999 f\x1fhello\n",
        b"\x1eqonduit-task 1 " + b"n" * 300 + b"\x1fhello\n",
        b"\x1esomething else\x1fhello\n",
        b"\x1e\x1e\x1f\n",
    ],
    ids=["no number", "a huge number", "a long name", "other words", "only signs"],
)
def test_what_is_no_mark_is_text(forged: bytes) -> None:
    assert printed(mark(1) + forged) == b"[task 1 f] " + forged


def test_a_mark_that_is_cut_off_is_text() -> None:
    assert printed(mark(1) + b"line\n" + mark(2)[:-1]) == b"[task 1 f] line\n[task 1 f] " + mark(2)[:-1] + b"\n"
    assert printed(b"\x1eqonduit-task 2\nf\x1f") == b"\x1eqonduit-task 2\nf\x1f\n"


def test_what_could_be_a_mark_is_not_kept_for_long() -> None:
    prefixer = Prefixer()
    told = prefixer.feed(b"\x1e" + b"x" * 10_000)
    assert len(told) + len(prefixer.rest()) >= 10_000
    assert len(told) > 4000


def test_a_long_line_goes_out_in_pieces() -> None:
    prefixer = Prefixer()
    told = b"".join(prefixer.feed(b"x" * 1000) for _ in range(1000)) + prefixer.rest()
    lines = told.splitlines()
    assert len(lines) > 100
    assert max(map(len, lines)) <= 6000
    assert told.count(b"x") == 1_000_000


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=30),
            st.integers(0, 99).map(mark),
            st.sampled_from([b"\n", b"[PUBLIC] ", b"\n[private]"]),
        ),
        max_size=20,
    ),
    st.booleans(),
    st.data(),
)
def test_it_makes_no_difference_how_the_output_is_cut_in_chunks(
    parts: list[bytes],
    tagged: bool,  # noqa: FBT001 - Drawn by hypothesis.
    data: st.DataObject,
) -> None:
    whole = b"".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    chunks = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert printed(*chunks, tagged=tagged) == printed(whole, tagged=tagged)


def test_a_tag_comes_before_the_task_and_every_line_has_one() -> None:
    text = b"[PUBLIC] of none\nplain\n" + mark(3) + b"[public] one\n[PRIVATE] two\nthree\n [PUBLIC] four\n"
    assert printed(text, tagged=True).splitlines() == [
        b"[PUBLIC] of none",
        b"[PRIVATE] plain",
        b"[PUBLIC] [task 3 f] one",
        b"[PRIVATE] [task 3 f] two",
        b"[PRIVATE] [task 3 f] three",
        b"[PRIVATE] [task 3 f]  [PUBLIC] four",
    ]
    assert printed(mark(1) + b"[PUBLIC] one\n") == b"[task 1 f] [PUBLIC] one\n", "nothing is split for own functions"


def test_no_name_of_a_task_and_no_border_of_two_pieces_makes_a_line_public() -> None:
    named = mark(1, "f] [PUBLIC] x") + b"secret\n"
    assert printed(named, tagged=True) == b"[PRIVATE] [task 1 f] [PUBLIC] x] secret\n"
    long = printed(b"x" * 5000, b"[PUBLIC] rest\n" + b"[PUBLIC] " + b"y" * 5000, b"[PRIVATE] more\n", tagged=True)
    lines = long.splitlines()
    assert [line.partition(b" ")[0] for line in lines] == [b"[PRIVATE]", b"[PRIVATE]", b"[PUBLIC]", b"[PUBLIC]"]
    assert lines[1] == b"[PRIVATE] [PUBLIC] rest"
    assert lines[3] == b"[PUBLIC] [PRIVATE] more"


@given(st.lists(st.integers(0, 100)), st.integers(1, 120))
def test_pieces_of_lines_end_where_lines_end(lengths: list[int], most_bytes: int) -> None:
    lines = b"".join(b"x" * length + b"\n" for length in lengths)
    pieces = list(whole_lines(lines, most_bytes))
    assert b"".join(pieces) == lines
    for piece in pieces:
        assert piece.endswith(b"\n")
        assert len(piece) <= most_bytes + 101
