"""Objects in a directory: one file each, written aside and renamed."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import ExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, BinaryIO

from qonduit_storage.blocking import in_thread, to_the_end
from qonduit_storage.disk import make_folder, sync_folder
from qonduit_storage.errors import RequestError
from qonduit_storage.objects import Stat

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from qonduit_storage.disk import Disk
    from qonduit_storage.incoming import Incoming

PIECE_BYTES = 1024 * 1024
_AHEAD_BYTES = 4 * PIECE_BYTES


class OpenFile:
    """An open file. It is read from its beginning, so that all of it can be verified."""

    starts_at = 0

    def __init__(self, disk: Disk, path: Path, file: BinaryIO) -> None:
        self._disk = disk
        self._path = path
        self._file = file
        self.size_bytes = os.fstat(file.fileno()).st_size

    async def pieces(self) -> AsyncIterator[bytes]:
        """Its bytes."""
        left = self.size_bytes
        coming = self._reading(left)
        try:
            while coming is not None:
                await asyncio.wait((coming,))  # A cancelled caller does not cancel it: a thread cannot be stopped.
                if not (piece := coming.result()):
                    return
                left -= len(piece)
                coming = self._reading(left)  # While this one is on its way out.
                yield piece
        finally:
            # The file is closed next, and nobody may be reading it then.
            if coming is not None:
                await to_the_end(_ended(coming))

    def _reading(self, left: int) -> asyncio.Future[bytes] | None:
        if left <= 0:
            return None
        return asyncio.get_running_loop().run_in_executor(None, self._read)

    def _read(self) -> bytes:
        # By itself the kernel reads little ahead, and what was just uploaded is not in memory.
        ahead = self._file.tell() + PIECE_BYTES
        os.posix_fadvise(self._file.fileno(), ahead, _AHEAD_BYTES, os.POSIX_FADV_WILLNEED)
        return self._file.read(PIECE_BYTES)

    async def set_aside(self) -> None:
        """Moves the file into `quarantine/`, so that a new upload takes its place."""
        await in_thread(self._set_aside)

    def _set_aside(self) -> None:
        folder = self._disk.root / "quarantine"
        folder.mkdir(mode=0o700, exist_ok=True)
        # Somebody may have stored the same content afresh meanwhile: that file is another one, and stays.
        with suppress(FileNotFoundError):
            if os.path.samestat(self._path.stat(), os.fstat(self._file.fileno())):
                self._path.replace(folder / f"{self._path.name}{self._disk.new_path().name}")


class DirectoryObjects:
    """Objects in the data folder, on the file system that uploads are written to."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    async def prepare(self) -> None:
        """Makes the folders of blobs, so that no upload has to wait for a new one to become durable."""
        await in_thread(self._make_folders)

    def _make_folders(self) -> None:
        folder = self._disk.root / "blobs"
        make_folder(folder)
        for number in range(256):
            (folder / f"{number:02x}").mkdir(mode=0o700, exist_ok=True)
        sync_folder(folder)

    async def keep(self, upload: Incoming, key: str) -> None:
        """Renames it; the rename is the commit: a crash before it leaves a file in `incoming/`."""
        await in_thread(self._keep, upload, self._path(key))

    def _keep(self, upload: Incoming, path: Path) -> None:
        with ExitStack() as stack:
            with suppress(OSError):  # As a rule there is none.
                stack.enter_context(path.open("rb", buffering=0))
            upload.move_to(path)
            replaced = stack.pop_all()
        # A large file is freed once nobody has it open any more, which takes 0.14 s a GB.
        try:
            self._disk.writers.submit(replaced.close)
        except RuntimeError:  # The service is ending.
            replaced.close()

    async def write(self, key: str, content: bytes) -> None:
        """Writes a file aside and renames it."""
        await in_thread(self._disk.write_record, self._path(key), content)

    @asynccontextmanager
    async def open(self, key: str, offset: int) -> AsyncIterator[OpenFile]:
        """An open file."""
        path = self._path(key)
        # Opened at once, and not in a thread: whoever has just found out that it is there finds it.
        with path.open("rb", buffering=0) as file:
            opened = OpenFile(self._disk, path, file)
            check_offset(offset, opened.size_bytes)
            yield opened

    async def stat(self, key: str) -> Stat | None:
        """What the file system says."""
        try:
            return _stat(key, await in_thread(self._path(key).stat))
        except FileNotFoundError:
            return None

    async def touch(self, key: str) -> Stat | None:
        """Sets the time of the file."""
        try:
            return _stat(key, await in_thread(_touched, self._path(key)))
        except FileNotFoundError:
            return None

    async def remove(self, key: str, *, unused_s: float = 0.0) -> bool:
        """Removes the file; readers that have it open keep it until they are done."""
        return await in_thread(self._remove, self._path(key), time.time() - unused_s if unused_s else float("inf"))

    def _remove(self, path: Path, before: float) -> bool:
        try:
            if path.stat().st_mtime >= before:
                return False
            path.unlink()
        except FileNotFoundError:
            return True
        sync_folder(path.parent)
        return True

    async def stats(self, folder: str) -> list[Stat]:
        """What is in a folder; none if there is no such folder."""
        return await in_thread(lambda: list(self._stats(folder)))

    def _contents(self, folder: str) -> Iterator[tuple[str, bytes]]:
        with suppress(FileNotFoundError), os.scandir(self._path(folder)) as entries:
            for entry in entries:
                with open(entry.path, "rb", buffering=0) as file:  # noqa: PTH123 - A hundred thousand times: it is quicker.
                    yield f"{folder}/{entry.name}", file.read()

    def _stats(self, folder: str) -> Iterator[Stat]:
        with suppress(FileNotFoundError), os.scandir(self._path(folder)) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # Deleted since it was listed.
                    yield _stat(f"{folder}/{entry.name}", entry.stat())

    async def small(self, folder: str) -> list[tuple[str, bytes]]:
        """All files of a folder."""
        return await in_thread(lambda: list(self._contents(folder)))

    def _path(self, key: str) -> Path:
        return self._disk.root / key


async def _ended(work: asyncio.Future[bytes]) -> None:
    await asyncio.wait((work,))
    if not work.cancelled():
        work.exception()  # Retrieved, so that asyncio does not report it as forgotten.


def _touched(path: Path) -> os.stat_result:
    os.utime(path)
    return path.stat()


def check_offset(offset: int, size_bytes: int) -> None:
    """Raises RequestError unless an offset is inside."""
    if not 0 <= offset <= size_bytes:
        raise RequestError(f"The offset {offset:,} is outside: there are {size_bytes:,} bytes.", field="offset")


def _stat(key: str, status: os.stat_result) -> Stat:
    return Stat(key, status.st_size, status.st_mtime)
