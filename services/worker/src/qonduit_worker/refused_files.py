"""What programs left in /data and storage refused: kept on this machine for a day.

So that hours of work are not lost to a wrong name.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from qonduit_service_kit.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from qonduit_worker.data_folder import Refused

_PRIVATE: Final = 0o700
_SWEEP_EVERY_S: Final = 600.0
_log = get_logger(__name__)


class RefusedFiles:
    """One folder a job, named after it; the oldest go when their time is over or there are too many bytes.

    What is inside is a program's: nothing here reads it or follows its links, it is only moved and removed. `keep` and
    `sweep` block, and may be called from several threads: who finds a thing gone goes on with the next.
    """

    def __init__(self, folder: Path, *, kept_s: float, most_bytes: int) -> None:
        self._folder = folder
        self._kept_s = kept_s
        self._most_bytes = most_bytes
        self._sweeping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Sweep, also what an earlier life kept, now and every so often."""
        self._sweeping = asyncio.create_task(self._sweep_now_and_then(), name="sweep-refused-files")

    async def stop(self) -> None:
        """Sweep no more; safe to call twice."""
        if self._sweeping is not None:
            self._sweeping.cancel()

    async def _sweep_now_and_then(self) -> None:
        while True:
            await asyncio.to_thread(self.sweep)
            await asyncio.sleep(_SWEEP_EVERY_S)

    def keep(self, refused: Iterable[Refused], data: Path, job_id: str) -> str:
        """Move refused files out of a sandbox that has ended; return a line for its log, or nothing."""
        names = [each.name for each in refused if each.lost]
        if not names or not self._kept_s:
            return ""
        place = self._folder / job_id
        try:
            # Nobody but the worker's own user passes through, whatever the program set on its files.
            self._folder.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
            place.mkdir(mode=_PRIVATE, exist_ok=True)
            for name in names:
                _move(data / name, place / name)
            os.utime(place)
        except OSError as error:
            _log.warning("refused_files_not_kept", job=job_id, error=str(error))
            return ""
        self.sweep()
        if not place.exists():
            return f"What was not kept is too large to be set aside: it may have {self._most_bytes:,} bytes"
        hours = self._kept_s / 3600
        return f"What was not kept is for {hours:g} hours on the worker's machine, for its operator: {place}"

    def sweep(self) -> None:
        """Remove what has been here for long enough, or is too much."""
        left = self._most_bytes
        for kept_at, place in sorted(self._places(), reverse=True):
            size = _size(place)
            if size > left or kept_at < time.time() - self._kept_s:
                _remove(place)
            else:
                left -= size

    def _places(self) -> Iterable[tuple[float, Path]]:
        with suppress(FileNotFoundError):
            for place in self._folder.iterdir():
                with suppress(FileNotFoundError):
                    yield place.stat().st_mtime, place


def _size(place: Path) -> int:
    total = 0
    for folder, _, names in os.walk(place):
        for name in names:
            with suppress(OSError):
                # What it takes here: a file with holes has more bytes than that.
                total += 512 * os.lstat(os.path.join(folder, name)).st_blocks  # noqa: PTH118 - As os.walk gives it.
    return total


def _move(source: Path, target: Path) -> None:
    _remove(target)  # Of an earlier attempt.
    try:
        source.rename(target)
    except OSError as error:  # Gone, or closed even to us by its permissions: the others are kept all the same.
        _log.warning("refused_file_not_kept", name=source.name, error=str(error))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
