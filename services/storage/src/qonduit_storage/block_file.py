"""A file that is written past the page cache."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import threading
from collections import deque
from concurrent.futures import wait
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future
    from pathlib import Path

_BLOCK_BYTES: Final = 1024 * 1024
_BLOCKS: Final = 4
"""Of each file: one is filled while the others wait for the disk."""
_TURN_BLOCKS: Final = 4
"""After so many, others who wait for a writer have their turn."""
_ALIGNMENT: Final = 4096
"""What file systems ask of memory, offset and size at most, as a rule."""


class BlockFile:
    """A file that grows at its end, block by block; its methods block.

    A whole block goes straight to the disk: the cache would need new memory for each page and a second copy, drive
    out what others use, and leave its writing to the end, when somebody waits for it. What fills no block, and all of
    a file on a file system that knows no such way, goes through the cache.

    Blocks are written by one of `writers`, in their order, while the next ones are filled, as hashing takes about as
    long as the disk. What fails there is raised by the next call that has to do with it, and by each after it.
    """

    def __init__(self, path: Path, *, writers: Executor, offset: int) -> None:
        self._file = path.open("r+b" if offset else "x+b", buffering=0)
        self._file.truncate(offset)
        self._writers = writers
        self._lock = threading.Lock()
        """For the next three: a writer must not end without seeing what comes just then."""
        self._full: deque[tuple[memoryview, int]] = deque()
        self._is_idle = True
        self._writing: Future[None] | None = None
        self._error: Exception | None = None
        self._free: SimpleQueue[memoryview] = SimpleQueue()
        for _ in range(_BLOCKS):
            self._free.put(memoryview(mmap.mmap(-1, _BLOCK_BYTES)))
        # Each byte stands in a block where it will in the file's.
        self._block = self._free.get()
        self._end = offset
        self._written = offset
        """Up to here all is in the file; what writes changes it, and one thing writes at a time."""
        self._direct_works = True
        self._is_direct = False

    def read(self, size_bytes: int) -> bytes:
        """The next bytes of what was there at the beginning; before anything is written."""
        return self._file.read(size_bytes)

    def write(self, piece: bytes | memoryview) -> None:
        """Takes the next bytes, and has the block written that they fill."""
        left = memoryview(piece)
        while left:
            place = self._end % _BLOCK_BYTES
            taken = left[: _BLOCK_BYTES - place]
            self._block[place : place + len(taken)] = taken
            self._end += len(taken)
            left = left[len(taken) :]
            if self._end % _BLOCK_BYTES == 0:
                self._have_written(self._block, self._end)
                self._block = self._free.get()

    def flush(self) -> None:
        """Writes what fills no block; nothing can be written after it."""
        self._settle()
        self._put(self._block, self._end, direct=False)

    def sync(self) -> None:
        """Writes what fills no block and makes all durable."""
        self.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Lets go of the file, and of what was not written; safe to call twice."""
        self.rest()  # Its number may soon be another file's.
        self._file.close()

    def rest(self) -> None:
        """Waits until nothing is being written; does not tell what failed."""
        while self._writing is not None and not self._writing.done():  # Each block has the next one written.
            wait((self._writing,))

    def _settle(self) -> None:
        self.rest()
        if self._error is not None:
            raise self._error

    def _have_written(self, block: memoryview, end: int) -> None:
        if self._error is not None:
            raise self._error
        with self._lock:
            self._full.append((block, end))
            if self._is_idle:
                self._is_idle = False
                self._writing = self._writers.submit(self._put_some)

    def _put_some(self) -> None:
        for _ in range(_TURN_BLOCKS):
            block, end = self._full.popleft()
            try:
                self._put(block, end, direct=True)
            except Exception as error:  # noqa: BLE001 - Told to whoever writes next.
                self._error = error
            self._free.put(block)
            with self._lock:
                ends = self._is_idle = self._error is not None or not self._full
            if ends:
                return
        with self._lock:  # Whoever goes on may have come to its end before `submit` returns.
            self._writing = self._writers.submit(self._put_some)

    def _put(self, block: memoryview, end: int, *, direct: bool) -> None:
        place = self._written % _BLOCK_BYTES
        left = block[place : place + end - self._written]
        self._choose(direct=direct and self._direct_works and self._written % _ALIGNMENT == 0)
        while left:
            try:
                written = os.write(self._file.fileno(), left)
            except OSError as error:
                if error.errno != errno.EINVAL or not self._is_direct:
                    raise
                self._direct_works = False
                self._choose(direct=False)
                continue
            left = left[written:]
            self._written += written

    def _choose(self, *, direct: bool) -> None:
        if direct == self._is_direct:
            return
        try:
            fcntl.fcntl(self._file.fileno(), fcntl.F_SETFL, os.O_DIRECT if direct else 0)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._direct_works = False
        else:
            self._is_direct = direct
