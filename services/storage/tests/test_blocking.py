"""Work in threads beside the event loop."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from qonduit_storage.blocking import Lane, in_thread

PATIENCE_S = 30.0


class Slow:
    """Work that goes on when it is told to."""

    def __init__(self) -> None:
        self.done: list[int] = []
        self.go = threading.Event()
        self.started = threading.Event()

    def __call__(self, piece: int) -> None:
        self.started.set()
        assert self.go.wait(PATIENCE_S)
        self.done.append(piece)


async def fill(lane: Lane[int], pieces: list[int], put: list[int]) -> None:
    async with lane:
        for piece in pieces:
            await lane.put(piece)
            put.append(piece)


async def wait_for(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, PATIENCE_S)


async def some_turns() -> None:
    """As many turns of the event loop as whoever is not held up would need."""
    for _ in range(100):
        await asyncio.sleep(0)


async def test_pieces_are_worked_on_in_their_order_and_all_of_them_before_the_end() -> None:
    done: list[int] = []
    async with Lane(done.append, 3) as lane:
        for number in range(100):
            await lane.put(number)
    assert done == list(range(100))


async def test_who_is_quicker_than_the_work_waits() -> None:
    work = Slow()
    put: list[int] = []
    filling = asyncio.create_task(fill(Lane(work, 3), list(range(10)), put))
    await wait_for(work.started)
    await some_turns()
    assert put == [0, 1, 2]
    work.go.set()
    await filling
    assert work.done == list(range(10))


async def test_who_is_never_out_of_pieces_lets_others_have_its_thread() -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    more, done = threading.Semaphore(0), list[object]()

    def work(piece: int) -> None:
        assert more.acquire(timeout=PATIENCE_S)  # Each piece takes as long as it takes to bring another.
        done.append(piece)

    other: asyncio.Future[None] | None = None
    async with Lane(work, 2) as lane:
        for piece in range(100):
            await lane.put(piece)
            if other is None:
                other = asyncio.ensure_future(in_thread(done.append, "other"))
                await some_turns()
            if piece:
                more.release()
        more.release()
    assert other is not None
    await other
    assert done.index("other") < 50


async def test_what_the_work_raises_is_told_and_nothing_comes_after_it() -> None:
    done: list[int] = []

    def work(piece: int) -> None:
        if piece == 2:
            raise ValueError("two")
        done.append(piece)

    put: list[int] = []
    with pytest.raises(ValueError, match="two"):
        await fill(Lane(work, 2), list(range(100)), put)
    assert done == [0, 1]
    assert len(put) < 10
    with pytest.raises(ValueError, match="two"):
        await fill(Lane(work, 2), [0, 1, 2], put)  # Told at the end, where no other call comes.


async def test_who_is_cancelled_goes_when_the_thread_has_ended() -> None:
    work = Slow()
    put: list[int] = []
    filling = asyncio.create_task(fill(Lane(work, 1), list(range(10)), put))
    await wait_for(work.started)
    filling.cancel()
    await some_turns()
    assert not filling.done(), "a thread still works on the piece"
    work.go.set()
    with pytest.raises(asyncio.CancelledError):
        await filling
    assert work.done == [0]
