"""One space: ``records/`` holds one small JSON object a name, ``content/`` the bytes by digest.

Two steps make a file, and a crash may come between them:
1. The content gets its name ``content/<digest>``. After a crash here no record points at it; it is removed when the
   space is opened next.
2. The record is replaced. This is the commit: size, digest, time and content change together.
Deleting goes the other way round: first the record, then content that no record points at.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from qonduit_service_kit.logs import get_logger

from qonduit_storage.blocking import to_the_end
from qonduit_storage.errors import QuotaError
from qonduit_storage.spaces.records import FileRecord, folder_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qonduit_storage.incoming import Incoming
    from qonduit_storage.objects import Objects

_log = get_logger("spaces")


class Space:
    """The files of one space. All records are in memory; one writer at a time changes them."""

    def __init__(self, objects: Objects, name: str) -> None:
        self.name = name
        self._objects = objects
        folder = folder_name(name)
        self._folder = f"spaces/{folder[:2]}/{folder}"
        self._files: dict[str, FileRecord] = {}
        self._sorted: list[str] | None = None
        self._changing = asyncio.Lock()
        self.used_bytes = 0
        """Of all files together, as a list shows them."""
        self._promised_bytes = 0
        """By how much the uploads that run now will make that grow."""
        self._coming: Counter[str] = Counter()
        """Content by digest that uploads bring, and that no record may have yet."""

    async def load(self) -> None:
        """Reads the records and removes what a crash left between the two steps."""
        unreadable = 0
        for key, content in await self._objects.small(f"{self._folder}/records"):
            try:
                record = FileRecord.from_json(content)
            except ValueError as error:
                unreadable += 1
                _log.error("a record cannot be read", space=self.name, key=key, error=str(error))
            else:
                self._put(record)
        if unreadable:
            return  # Content that seems to belong to nobody may belong to one of these.
        used = {record.digest for record in self._files.values()}
        for stat in await self._objects.stats(f"{self._folder}/content"):
            if stat.key.rpartition("/")[2] not in used:
                await self._objects.remove(stat.key)

    def find(self, name: str) -> FileRecord | None:
        """What is known of a file."""
        return self._files.get(name)

    def names(self) -> list[str]:
        """All names, sorted."""
        if self._sorted is None:
            self._sorted = sorted(self._files)
        return self._sorted

    def content_key(self, record: FileRecord) -> str:
        """Where the bytes of a file are."""
        return self._content_key(record.digest)

    def _content_key(self, digest: str) -> str:
        return f"{self._folder}/content/{digest}"

    def check_room(self, name: str, size_bytes: int, limit_bytes: int) -> None:
        """Raises QuotaError if an upload would be refused now."""
        self._check_limit(name, self._growth(name, size_bytes), limit_bytes, self._promised_bytes)

    @contextmanager
    def promise(self, name: str, size_bytes: int, limit_bytes: int) -> Iterator[None]:
        """Keeps room within a limit while an upload runs, so that many at once cannot exceed it together.

        Raises:
            QuotaError: there is not enough.
        """
        growth = self._growth(name, size_bytes)
        self._check_limit(name, growth, limit_bytes, self._promised_bytes)
        self._promised_bytes += growth
        try:
            yield
        finally:
            self._promised_bytes -= growth

    def _growth(self, name: str, size_bytes: int) -> int:
        old = self._files.get(name)
        return max(0, size_bytes - (old.size_bytes if old else 0))

    def _check_limit(self, name: str, growth: int, limit_bytes: int, promised_bytes: int) -> None:
        """What does not grow is welcome even where a limit was lowered: it may be the way back below it."""
        room = limit_bytes - self.used_bytes - promised_bytes
        if not limit_bytes or not growth or growth <= room:
            return
        running = f", and uploads that run now were promised {promised_bytes:,}" if promised_bytes else ""
        needs = "is to grow by" if name in self._files else "needs"
        raise QuotaError(
            f"{name!a} {needs} {growth:,} bytes, and {max(0, room):,} are left in this space. Its limit is "
            f"{limit_bytes:,}, its files have {self.used_bytes:,}{running}. Delete files that are no longer needed, or "
            "ask an administrator for a higher limit.",
            needed_bytes=growth,
            used_bytes=self.used_bytes,
            promised_bytes=promised_bytes,
            limit_bytes=limit_bytes,
        )

    async def keep(
        self, upload: Incoming, name: str, size_bytes: int, digest: str, *, limit_bytes: int = 0
    ) -> FileRecord:
        """Gives a finished upload its name; a file of that name is replaced at one moment.

        Raises:
            DiskFullError: there is no room; the old file stays.
            QuotaError: others replaced or deleted files meanwhile, so that there is no room within the limit.
        """
        return await to_the_end(self._keep(upload, FileRecord(name, size_bytes, digest, 0), limit_bytes))

    async def _keep(self, upload: Incoming, wanted: FileRecord, limit_bytes: int) -> FileRecord:
        try:
            record, old = await self._commit(upload, wanted, limit_bytes)
        except QuotaError:
            await self._drop_content(wanted.digest)
            raise
        if old is not None:
            await self._drop_content(old.digest)
        return record

    async def _commit(
        self, upload: Incoming, wanted: FileRecord, limit_bytes: int
    ) -> tuple[FileRecord, FileRecord | None]:
        with self._on_its_way(wanted.digest):
            # Not under the lock: a store far away takes its time, and no record points there yet. What fails from here
            # on leaves content to the next load: whether the record was written is not always known.
            await self._objects.keep(upload, self._content_key(wanted.digest))
            async with self._changing:
                self._check_limit(wanted.name, self._growth(wanted.name, wanted.size_bytes), limit_bytes, 0)
                record = replace(wanted, stored_at_ns=time.time_ns())
                await self._objects.write(self._record_key(record.name), record.to_json())
                old = self._files.get(record.name)
                self._put(record)
        return record, old

    @contextmanager
    def _on_its_way(self, digest: str) -> Iterator[None]:
        self._coming[digest] += 1
        try:
            yield
        finally:
            self._coming[digest] -= 1

    def _put(self, record: FileRecord) -> None:
        old = self._files.get(record.name)
        self._files[record.name] = record
        self._sorted = None
        self.used_bytes += record.size_bytes - (old.size_bytes if old else 0)

    async def delete(self, name: str) -> bool:
        """Deletes a file; False if there is none."""
        return await to_the_end(self._delete(name))

    async def _delete(self, name: str) -> bool:
        async with self._changing:
            old = self._files.get(name)
            if old is None:
                return False
            await self._objects.remove(self._record_key(name))
            del self._files[name]
            self._sorted = None
            self.used_bytes -= old.size_bytes
        await self._drop_content(old.digest)
        return True

    async def _drop_content(self, digest: str) -> None:
        """Removes content that no file has, and none is about to have; readers that have it open keep it."""
        async with self._changing:
            if not self._coming[digest] and all(record.digest != digest for record in self._files.values()):
                await self._objects.remove(self._content_key(digest))

    def _record_key(self, name: str) -> str:
        return f"{self._folder}/records/{folder_name(name)}.json"
