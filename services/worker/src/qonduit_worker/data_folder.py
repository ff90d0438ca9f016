"""A program's /data: the user's files as real ones, and the way back for what the program changed."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import shutil
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from qonduit_worker.storage import StorageError, StoredFile

if TYPE_CHECKING:
    from pathlib import Path

    from qonduit_worker.blobs import BlobCache
    from qonduit_worker.storage import SpaceUsage, Storage

_CLONE: Final = 0x40049409
"""FICLONE: a copy that shares its blocks until one side writes, where the file system can."""
_COPY_BYTES: Final = 1024**2
_TRANSFERS: Final = 4


@dataclass(frozen=True, slots=True)
class _Trace:
    """How a file looked when it was last the same as in storage."""

    inode: int
    size_bytes: int
    modified_ns: int
    digest: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Something in /data that was not kept."""

    name: str
    text: str
    """What it is, and why: a sentence without its full stop."""
    lost: bool = True
    """Whether its bytes are only here."""


class DataFolder:
    """One sandbox's data folder and the user's space behind it.

    The folder holds copies, so that no program reaches another's files or the machine's cache.

    Args:
        folder: The data folder.
        space: The user's space.
        storage: As the job may use it.
        cache: This machine's.
        names: The files to bring; None for all.
    """

    def __init__(
        self,
        folder: Path,
        space: str,
        storage: Storage,
        cache: BlobCache,
        *,
        names: tuple[str, ...] | None = None,
    ) -> None:
        self._names = None if names is None else frozenset(names)
        self._folder = folder
        self._space = space
        self._storage = storage
        self._cache = cache
        self._known: dict[str, _Trace] = {}
        self._transfers = asyncio.Semaphore(_TRANSFERS)
        self._syncing = asyncio.Lock()

    async def stored(self) -> list[StoredFile]:
        """Return the user's files as storage has them."""
        return await self._storage.list_files(self._space)

    async def usage(self) -> SpaceUsage:
        """Return how full the user's space is."""
        return await self._storage.usage(self._space)

    async def fill(self) -> None:
        """Bring the user's files; raises StorageError."""
        if self._names is not None and not self._names:
            return
        wanted = (file for file in await self.stored() if self._names is None or file.name in self._names)
        await asyncio.gather(*(self._bring(file) for file in wanted))

    async def _bring(self, file: StoredFile) -> None:
        async with self._transfers:
            with self._cache.pinned(file.digest):
                await self._copy(file)

    async def _copy(self, file: StoredFile) -> None:
        try:
            cached = await self._cache.fetch_file(self._storage, self._space, file)
        except StorageError as error:
            if error.reason == "FILE_NOT_FOUND":
                return  # Deleted since it was listed.
            raise
        await asyncio.to_thread(self._place, cached, file.name, cached.name)

    def _place(self, source: Path, name: str, digest: str) -> None:
        self._known[name] = _trace(copy_file(source, self._folder / name, owner=self._folder.stat()), digest)

    async def open(self, name: str) -> tuple[Path, StoredFile]:
        """Return a copy on this machine of a file as storage has it; raises StorageError."""
        file = await self._storage.stat_file(self._space, name)
        cached = await self._cache.fetch_file(self._storage, self._space, file)
        if cached.name != file.digest:
            file = StoredFile(name, cached.stat().st_size, cached.name)
        return cached, file

    async def store(self, name: str, digest: str, part: Path) -> None:
        """Store a file that the program sent, and show it in the folder; raises StorageError."""
        async with self._syncing:
            await self._storage.put_file(self._space, name, digest, part)
            cached = self._cache.adopt(part, digest)
            await asyncio.to_thread(self._place, cached, name, digest)

    async def delete(self, name: str) -> None:
        """Delete a file in storage and in the folder; raises StorageError."""
        async with self._syncing:
            await self._storage.delete_file(self._space, name)
            if name in self._known:
                del self._known[name]
                (self._folder / name).unlink(missing_ok=True)

    async def send_back(self) -> list[Refused]:
        """Bring storage up to what the folder holds now; returns what was not kept."""
        async with self._syncing:
            changed, gone, refused = await asyncio.to_thread(self._scan)
            for name in changed:
                refused += await self._send(name)
            for name in gone:
                refused += await self._send_deletion(name)
            return refused

    async def left(self) -> list[str]:
        """Return the names of files that are not the same as in storage."""
        async with self._syncing:
            return (await asyncio.to_thread(self._scan))[0]

    def cut_off(self) -> list[Refused]:
        """Return what a program that was killed had changed since it was last the same as in storage."""
        why = "was not kept: the program was killed, maybe while it wrote it"
        return [Refused(name, f"the file {name!r} in /data {why}") for name in self._scan()[0]]

    def _scan(self) -> tuple[list[str], set[str], list[Refused]]:
        """Return what is new or changed, what is gone, and what may not be there."""
        changed: list[str] = []
        gone = set(self._known)
        refused: list[Refused] = []
        with os.scandir(self._folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                found = entry.stat(follow_symlinks=False)
                gone.discard(entry.name)
                if stat.S_ISDIR(found.st_mode):
                    text = f"the folder {entry.name!r} in /data was not kept: /data is flat"
                    refused.append(Refused(entry.name, text))
                elif not stat.S_ISREG(found.st_mode):
                    text = f"{entry.name!r} in /data was not kept: it is no file but a link or a device"
                    refused.append(Refused(entry.name, text, lost=False))
                elif not _same(self._known.get(entry.name), found):
                    changed.append(entry.name)
        return changed, gone, refused

    async def _send(self, name: str) -> list[Refused]:
        part = self._cache.new_part()
        try:
            trace = await asyncio.to_thread(_copy_out, self._folder / name, part)
            before = self._known.get(name)
            if before is None or before.digest != trace.digest:
                await self._storage.put_file(self._space, name, trace.digest, part)
                self._cache.adopt(part, trace.digest)
            self._known[name] = trace
        except (StorageError, OSError, UnicodeError) as error:
            return [Refused(name, f"the file {name!r} in /data was not kept: {error}")]
        finally:
            part.unlink(missing_ok=True)
        return []

    async def _send_deletion(self, name: str) -> list[Refused]:
        trace = self._known.pop(name)
        try:
            # Somebody else may have stored another one since: that one is not this program's to delete.
            if (await self._storage.stat_file(self._space, name)).digest == trace.digest:
                await self._storage.delete_file(self._space, name)
        except StorageError as error:
            if error.reason != "FILE_NOT_FOUND":
                text = f"the file {name!r} was removed from /data but is still stored: {error}"
                return [Refused(name, text, lost=False)]
        return []


def copy_file(source: Path, target: Path, *, owner: os.stat_result | None = None) -> os.stat_result:
    """Copy a file's bytes into a new file, without moving them where the file system can; returns what it is then.

    A program may put a link in the place of `target` at any moment: what is given to its owner is the file itself.
    """
    target.unlink(missing_ok=True)
    with source.open("rb") as reader, target.open("xb") as writer:
        try:
            fcntl.ioctl(writer.fileno(), _CLONE, reader.fileno())
        except OSError:
            shutil.copyfileobj(reader, writer, _COPY_BYTES)
        writer.flush()
        if owner is not None:
            with contextlib.suppress(PermissionError):
                os.fchown(writer.fileno(), owner.st_uid, owner.st_gid)
        return os.fstat(writer.fileno())


def _copy_out(source: Path, target: Path) -> _Trace:
    """Copy a file of the program's; whatever it makes of the name meanwhile, only a regular file is read."""
    descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as reader, target.open("wb") as writer:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError("it is no regular file")
        sha256 = hashlib.sha256()
        while data := reader.read(_COPY_BYTES):
            sha256.update(data)
            writer.write(data)
    return _trace(found, sha256.hexdigest())


def _trace(found: os.stat_result, digest: str) -> _Trace:
    return _Trace(found.st_ino, found.st_size, found.st_mtime_ns, digest)


def _same(trace: _Trace | None, found: os.stat_result) -> bool:
    return trace is not None and trace == _trace(found, trace.digest)
