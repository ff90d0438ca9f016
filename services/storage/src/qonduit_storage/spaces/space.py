"""One space on disk: ``records/`` holds one small JSON file a name, ``content/`` the bytes by digest.

Two steps make a file, and a crash may come between them:
1. The content gets its name ``content/<digest>``. After a crash here no record points at it; it is removed when the
   space is opened next.
2. The record is replaced by rename. This is the commit: size, digest, time and content change together.
Deleting goes the other way round: first the record, then content that no record points at.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from qonduit_service_kit.logs import get_logger

from qonduit_storage.blocking import in_thread
from qonduit_storage.disk import remove
from qonduit_storage.spaces.records import FileRecord, folder_name

if TYPE_CHECKING:
    from pathlib import Path

    from qonduit_storage.disk import Disk
    from qonduit_storage.incoming import Incoming

_log = get_logger("spaces")


class Space:
    """The files of one space. All records are in memory; one writer at a time changes them."""

    def __init__(self, disk: Disk, name: str) -> None:
        self.name = name
        self._disk = disk
        folder = folder_name(name)
        self._folder = disk.root / "spaces" / folder[:2] / folder
        self._files: dict[str, FileRecord] = {}
        self._sorted: list[str] | None = None
        self._changing = asyncio.Lock()

    def load(self) -> None:
        """Reads the records and removes what a crash left between the two steps."""
        unreadable = 0
        for path in _listed(self._folder / "records"):
            try:
                record = FileRecord.from_json(path.read_bytes())
            except ValueError as error:
                unreadable += 1
                _log.error("a record cannot be read", space=self.name, path=str(path), error=str(error))
            else:
                self._files[record.name] = record
        if unreadable:
            return  # Content that seems to belong to nobody may belong to one of these.
        used = {record.digest for record in self._files.values()}
        for path in _listed(self._folder / "content"):
            if path.name not in used:
                path.unlink()

    def find(self, name: str) -> FileRecord | None:
        """What is known of a file."""
        return self._files.get(name)

    def names(self) -> list[str]:
        """All names, sorted."""
        if self._sorted is None:
            self._sorted = sorted(self._files)
        return self._sorted

    def content_path(self, record: FileRecord) -> Path:
        """Where the bytes of a file are."""
        return self._folder / "content" / record.digest

    async def keep(self, upload: Incoming, name: str, size_bytes: int, digest: str) -> FileRecord:
        """Gives a finished upload its name; a file of that name is replaced at one moment.

        Raises:
            DiskFullError: there is no room; the old file stays.
        """
        async with self._changing:
            record = FileRecord(name, size_bytes, digest, time.time_ns())
            old = self._files.get(name)
            await in_thread(self._keep, upload, record)
            self._files[name] = record
            self._sorted = None
            if old is not None:
                await in_thread(self._drop_content, old)
            return record

    async def delete(self, name: str) -> bool:
        """Deletes a file; False if there is none."""
        async with self._changing:
            old = self._files.get(name)
            if old is None:
                return False
            await in_thread(remove, self._record_path(name))
            del self._files[name]
            self._sorted = None
            await in_thread(self._drop_content, old)
            return True

    def _keep(self, upload: Incoming, record: FileRecord) -> None:
        upload.move_to(self.content_path(record))
        self._disk.write_record(self._record_path(record.name), record.to_json())

    def _drop_content(self, old: FileRecord) -> None:
        # Readers that have it open keep it until they are done.
        if all(record.digest != old.digest for record in self._files.values()):
            self.content_path(old).unlink(missing_ok=True)

    def _record_path(self, name: str) -> Path:
        return self._folder / "records" / f"{folder_name(name)}.json"


def _listed(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []
