"""The data folder: its lock, its free space, and writes that survive a crash whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from qonduit_storage.errors import DiskFailedError, DiskFullError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FAILED = (errno.EROFS, errno.EIO)
_FREE_SPACE_AGE_S = 0.5
_WRITERS = 8


class Disk:
    """One folder on one file system, owned by one process.

    Everything new is written under ``incoming/`` first, made durable, and then renamed to where it belongs. A crash
    leaves at most files in ``incoming/``, which are removed at the next start.
    """

    def __init__(self, root: Path, *, min_free_bytes: int) -> None:
        self.root = root
        self.min_free_bytes = min_free_bytes
        self.reserved_bytes = 0
        self.writers = ThreadPoolExecutor(_WRITERS, "storage-writer")
        """Threads that write what other threads have hashed; they wait for nothing but the disk."""
        self._numbers = itertools.count()
        self._lock_file: int | None = None
        self._free_bytes = 0
        self._free_at = float("-inf")

    @property
    def incoming(self) -> Path:
        """Where everything new is written first."""
        return self.root / "incoming"

    def open(self) -> None:
        """Takes the folder for this process. What a crash left in ``incoming/`` stays until ``sweep``.

        Raises:
            StorageError: another process has it.
        """
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock_file = os.open(self.root / "lock", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            raise StorageError(
                f"Another storage service works on {self.root}. Stop it first, or choose another data folder."
            ) from error
        make_folder(self.incoming)

    def sweep(self) -> int:
        """Removes what a crash left half-written, before anything new is written; tells how many files that were."""
        left_over = len(list(self.incoming.iterdir()))
        shutil.rmtree(self.incoming, ignore_errors=True)
        make_folder(self.incoming)
        return left_over

    def close(self) -> None:
        """Lets go of the folder; safe to call twice."""
        self.writers.shutdown()
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None

    def new_path(self, key: str = "") -> Path:
        """A path for a new file, on the same file system as all others; the key tells after a crash what it was."""
        return self.incoming / f"{key}-{os.getpid()}-{next(self._numbers)}"

    def free_bytes(self) -> int:
        """Free bytes for us, at most half a second old."""
        now = time.monotonic()
        if now - self._free_at > _FREE_SPACE_AGE_S:
            status = os.statvfs(self.root)
            self._free_bytes, self._free_at = status.f_bavail * status.f_frsize, now
        return self._free_bytes

    def size_bytes(self) -> int:
        """Size of the whole file system."""
        status = os.statvfs(self.root)
        return status.f_blocks * status.f_frsize

    def check_room(self, size_bytes: int) -> None:
        """Refuses what would not fit, so that the disk never becomes quite full.

        Raises:
            DiskFullError: with the numbers.
        """
        room = self.free_bytes() - self.reserved_bytes - self.min_free_bytes
        if size_bytes > room:
            raise DiskFullError(
                f"The storage service has no room for {size_bytes:,} bytes: its disk has {self.free_bytes():,} free, "
                f"{self.reserved_bytes:,} are promised to running uploads, and {self.min_free_bytes:,} are kept free. "
                "Delete files that are no longer needed, or ask the operator for more space, and try again."
            )

    @contextmanager
    def reserve(self, size_bytes: int) -> Iterator[Reservation]:
        """Keeps room for an upload while it runs.

        Raises:
            DiskFullError: there is not enough.
        """
        self.check_room(size_bytes)
        reservation = Reservation(self, size_bytes)
        try:
            yield reservation
        finally:
            reservation.use(reservation.left_bytes)

    def write_record(self, path: Path, content: bytes) -> None:
        """Replaces a small file: readers, and a crash, see the old content or the new one.

        Raises:
            DiskFullError: there is no room; the old content stays.
        """
        new = self.new_path()
        try:
            with room_errors(), new.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            with room_errors():
                make_folder(path.parent)
                rename(new, path)
        finally:
            with suppress(OSError):  # A disk that failed is told already.
                new.unlink(missing_ok=True)


class Reservation:
    """Room promised to one upload; what it has written no longer counts."""

    def __init__(self, disk: Disk, size_bytes: int) -> None:
        self.left_bytes = size_bytes
        self._disk = disk
        disk.reserved_bytes += size_bytes

    def use(self, size_bytes: int) -> None:
        """Takes note of bytes that were written, or will not be."""
        used = min(size_bytes, self.left_bytes)
        self.left_bytes -= used
        self._disk.reserved_bytes -= used


@contextmanager
def room_errors() -> Iterator[None]:
    """Turns what the system says of the disk into ours.

    Raises:
        DiskFullError, DiskFailedError: instead of the OSError.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FAILED:
            raise DiskFailedError(
                f"The disk of the storage service cannot be written to ({error.strerror}), and nothing of this was "
                "kept. Tell the operator; what is stored can still be read."
            ) from error
        if error.errno not in _FULL:
            raise
        raise DiskFullError(
            "The disk of the storage service is full, and nothing of this was kept. Delete files that are no longer "
            "needed, or ask the operator for more space, and try again."
        ) from error


def make_folder(path: Path) -> None:
    """Makes a folder and its parents, durably."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
    sync_folder(path.parent)


def rename(source: Path, target: Path) -> None:
    """Moves a file whose bytes are durable to its final name, durably, replacing what is there."""
    source.replace(target)
    sync_folder(target.parent)


def sync_folder(path: Path) -> None:
    """Makes the names in a folder durable."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
