"""Uploads on their way to the disk."""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from qonduit_storage.disk import Disk
from qonduit_storage.incoming import Incoming, incoming, receive
from qonduit_storage.spaces.store import OfferedFile

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

MIB = 1024**2
PATIENCE_S = 30


async def test_an_upload_that_ends_early_holds_nobody_up_while_its_block_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing, resting, may_write = threading.Event(), threading.Event(), threading.Event()
    in_time: list[bool] = []
    write, rest = os.write, Incoming.rest

    def slow(number: int, left: memoryview) -> int:
        if len(left) == MIB:
            writing.set()
            in_time.append(may_write.wait(PATIENCE_S))
        return write(number, left)

    def rest_and_tell(upload: Incoming) -> None:
        resting.set()
        rest(upload)

    async def chunks() -> AsyncIterator[bytes]:
        yield bytes(MIB)
        await asyncio.to_thread(writing.wait, PATIENCE_S)
        raise ConnectionResetError("its sender is gone")

    async def upload(disk: Disk) -> None:
        with incoming(disk, OfferedFile("users/ada", "a.tar", 2 * MIB, "")) as file:
            await receive(file, chunks())

    monkeypatch.setattr(os, "write", slow)
    monkeypatch.setattr(Incoming, "rest", rest_and_tell)
    with closing(Disk(tmp_path, min_free_bytes=0)) as disk:
        disk.open()
        uploading = asyncio.create_task(upload(disk))
        await asyncio.to_thread(resting.wait, PATIENCE_S)
        may_write.set()
        with pytest.raises(ConnectionResetError):
            await uploading
        assert in_time == [True], "the event loop went on while it waited"
        assert list(disk.incoming.iterdir()) == []
