"""Uploads that broke off, kept for a while so that they can go on where they stopped.

While an upload runs, its file in ``incoming/`` has a name that tells whose it is. Where it ends early, for whatever
reason but its own content, the file moves to ``partial/``; so it does at the next start after a crash of this service.
Going on moves it back, which only one can do. Nothing here is trusted: what was kept is hashed and checked again, so
where a power cut took bytes the upload is refused as one whose bytes are others than announced, and starts anew.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from qonduit_storage.blocking import in_thread
from qonduit_storage.disk import make_folder
from qonduit_storage.errors import StorageError, UploadLostError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from qonduit_storage.disk import Disk
    from qonduit_storage.incoming import Incoming
    from qonduit_storage.spaces.store import OfferedFile

LEAST_BYTES: Final = 1024 * 1024
"""What is smaller is sent again as quickly."""
_MOST_OF_A_SPACE: Final = 4
_ENDING_S: Final = 5.0
_EXPIRE_EVERY_S: Final = 600.0


def key_of(offer: OfferedFile) -> str:
    """A name for the file system that tells the space and the file that is to come."""
    space = hashlib.sha256(offer.space.encode()).hexdigest()[:32]
    what = f"{offer.name}\0{offer.size_bytes}\0{offer.digest}"
    return f"{space}.{hashlib.sha256(what.encode()).hexdigest()[:32]}"


class Partials:
    """What is kept of uploads that broke off: the newest few of each space, for a time."""

    def __init__(self, disk: Disk, *, kept_s: float) -> None:
        self._disk = disk
        self._kept_s = kept_s
        self._folder = disk.root / "partial"
        self._running: dict[str, asyncio.Event] = {}

    def recover(self) -> int:
        """Takes over what a crash left in ``incoming/``; tells how many uploads can go on. Blocks."""
        make_folder(self._folder)
        kept = 0
        for path in self._disk.incoming.iterdir():
            key = path.name.partition("-")[0]
            if "." in key:
                kept += self._keep(path, key)
        self._expire()
        return kept

    async def expire_now_and_then(self) -> None:
        """Removes what was kept for long enough, until cancelled."""
        while True:
            await asyncio.sleep(_EXPIRE_EVERY_S)
            await in_thread(self._expire)

    async def received_bytes(self, offer: OfferedFile) -> int:
        """How much of an upload is here, to go on from; 0 if nothing is.

        An upload whose connection broke may not have noticed yet: it is waited for, for a moment.
        """
        key = key_of(offer)
        if (ended := self._running.get(key)) is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), _ENDING_S)
        try:
            return min((self._folder / key).stat().st_size, offer.size_bytes)
        except FileNotFoundError:
            return 0

    def take(self, offer: OfferedFile) -> Path:
        """Moves what is kept of an upload back to ``incoming/`` and returns where it is.

        Raises:
            UploadLostError: it is gone, or has less than the upload would go on from.
        """
        key = key_of(offer)
        path = self._disk.new_path(key)
        try:
            (self._folder / key).replace(path)
            if path.stat().st_size >= offer.offset:
                return path
            path.unlink()
        except FileNotFoundError:
            pass
        raise UploadLostError(
            f"What came of {offer.name!a} before is not here any more, so it cannot go on at byte {offer.offset:,}. "
            "Ask again how much is here."
        )

    @contextmanager
    def running(self, offer: OfferedFile) -> Iterator[None]:
        """Around an upload, so that one that goes on can wait for the one that broke off."""
        ended = asyncio.Event()
        key = key_of(offer)
        self._running[key] = ended
        try:
            yield
        finally:
            ended.set()
            if self._running.get(key) is ended:
                del self._running[key]

    def keep(self, upload: Incoming, offer: OfferedFile) -> None:
        """Keeps the file of an upload that broke off, if it is worth it; blocks."""
        with suppress(StorageError, OSError):  # What is written already can be gone on from as well.
            upload.break_off()
        self._keep(upload.path, key_of(offer))
        self._expire()

    def _keep(self, path: Path, key: str) -> bool:
        with suppress(OSError):  # Nothing is lost that the sender does not have.
            if path.stat().st_size >= LEAST_BYTES:
                path.replace(self._folder / key)
                return True
        return False

    def _expire(self) -> None:
        of_space: dict[str, int] = {}
        oldest = time.time() - self._kept_s
        for changed_at, path in sorted(self._kept(), reverse=True):
            space = path.name.partition(".")[0]
            of_space[space] = of_space.get(space, 0) + 1
            if changed_at < oldest or of_space[space] > _MOST_OF_A_SPACE:
                with suppress(OSError):
                    path.unlink()

    def _kept(self) -> Iterator[tuple[float, Path]]:
        for path in self._folder.iterdir():
            with suppress(FileNotFoundError):  # An upload that goes on has taken it.
                yield path.stat().st_mtime, path
