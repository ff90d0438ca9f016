"""The bytes of one log on disk: files of limited size, each named by the offset of its first byte.

Where a log starts and ends is told by these names and by the files' sizes alone, so no second record can disagree
with the bytes after a crash. Dropping the oldest bytes is deleting the oldest files, oldest first.
"""

from __future__ import annotations

import os
import shutil
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from qonduit_service_kit.logs import get_logger

from qonduit_storage.disk import make_folder, room_errors, sync_folder

if TYPE_CHECKING:
    from pathlib import Path

_DIGITS = 20
_ENDING = ".log"
_log = get_logger("logs")


class Segments:
    """One log's bytes; its methods block. One caller at a time appends or syncs; ``lock`` keeps readers consistent."""

    def __init__(self, folder: Path, *, segment_bytes: int, cap_bytes: int) -> None:
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._cap_bytes = cap_bytes
        self._sizes: dict[int, int] = {}
        self._file: int | None = None
        self.lock = threading.RLock()
        self.start = 0
        """Offset of the oldest byte that is kept."""
        self.end = 0
        """Offset behind the newest byte."""

    def load(self, empty_at: int) -> None:
        """Finds what is on disk; a log without bytes starts at ``empty_at``."""
        starts = sorted(int(path.stem) for path in self._folder.glob(f"*{_ENDING}"))
        self._sizes = {start: self._path(start).stat().st_size for start in starts}
        self.start = starts[0] if starts else empty_at
        for start in starts:
            if start != self.start + sum(size for first, size in self._sizes.items() if first < start):
                # Only a hand or a broken file system makes a hole; what comes after it is the newest, and stays.
                _log.error("a log has a hole", folder=str(self._folder), offset=start)
                self._sizes = {first: size for first, size in self._sizes.items() if first >= start}
                self.start = start
        self.end = self.start + sum(self._sizes.values())

    def append(self, data: bytes) -> None:
        """Writes bytes at the end; ``sync`` makes them durable.

        Raises:
            DiskFullError: there is no room; the log is as before.
        """
        with self.lock:
            end = self.end
            try:
                with room_errors():
                    self._write(data)
            except BaseException:
                self._cut(end)
                raise
            self._drop_oldest()

    def read_all(self, start: int, end: int) -> bytes:
        """Bytes that are kept, from several files if need be."""
        pieces: list[bytes] = []
        while start < end:
            pieces.append(self.read(start, end - start))
            start += len(pieces[-1])
        return b"".join(pieces)

    def delete(self) -> None:
        """Removes all files and their folder; what comes next starts at 0."""
        with self.lock:
            self.close()
            with suppress(FileNotFoundError):
                shutil.rmtree(self._folder)
            if self._folder.parent.is_dir():
                sync_folder(self._folder.parent)
            self._sizes = {}
            self.start = self.end = 0

    def read(self, offset: int, limit: int) -> bytes:
        """Bytes from an offset that is kept, at most so many, from one file; empty at the end."""
        start = max((first for first in self._sizes if first <= offset), default=self.start)
        if offset >= self.end:
            return b""
        with self._path(start).open("rb") as file:
            file.seek(offset - start)
            return file.read(min(limit, self.end - offset))

    def sync(self) -> None:
        """Makes all bytes durable; all files but the newest were synced when they were full."""
        if self._sizes:
            with room_errors():
                os.fsync(self._opened(max(self._sizes)))

    def close(self) -> None:
        """Lets go of the files; safe to call twice."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _newest(self) -> tuple[int, int]:
        """The file to write to, and how many bytes it has room for; a new one when the newest is full."""
        newest = max(self._sizes, default=None)
        if newest is None or self._sizes[newest] >= self._segment_bytes:
            self.sync()
            self.close()
            newest = self.end
            make_folder(self._folder)
            file = self._opened(newest)
            self._sizes[newest] = 0
            sync_folder(self._folder)
        else:
            file = self._opened(newest)
        return file, self._segment_bytes - self._sizes[newest]

    def _opened(self, start: int) -> int:
        if self._file is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._file = os.open(self._path(start), flags, 0o600)
        return self._file

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            file, room = self._newest()
            written = os.write(file, left[:room])
            self._sizes[max(self._sizes)] += written
            self.end += written
            left = left[written:]

    def _cut(self, end: int) -> None:
        """Takes back what was written behind an offset: all of a piece is kept, or nothing."""
        self.close()
        for start in sorted(self._sizes, reverse=True):
            keep = max(0, end - start)
            if keep == 0 and start != self.start:
                self._path(start).unlink(missing_ok=True)
                del self._sizes[start]
            elif keep < self._sizes[start]:
                os.truncate(self._path(start), keep)
                self._sizes[start] = keep
        self.end = end

    def _drop_oldest(self) -> None:
        while len(self._sizes) > 1:
            oldest = min(self._sizes)
            if self.end - self.start - self._sizes[oldest] < self._cap_bytes:
                return
            self._path(oldest).unlink(missing_ok=True)
            self.start += self._sizes.pop(oldest)

    def _path(self, start: int) -> Path:
        return self._folder / f"{start:0{_DIGITS}}{_ENDING}"
