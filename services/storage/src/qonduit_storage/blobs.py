"""Blobs: bytes under the name of their sha256."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from qonduit_storage.errors import DamagedError, MissingError, RequestError, TooLargeError
from qonduit_storage.incoming import incoming, receive
from qonduit_storage.outgoing import serve
from qonduit_storage.rules.names import check_digest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Collection

    from qonduit_storage.disk import Disk
    from qonduit_storage.objects import Objects

_FOLDERS = tuple(f"{number:02x}" for number in range(256))


@dataclass(slots=True)
class _Changing:
    """A blob that is being stored, touched or deleted."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


@dataclass(frozen=True, slots=True)
class Blob:
    """What names a blob and tells its size."""

    digest: str
    size_bytes: int


class BlobStore:
    """Keeps blobs in 256 folders, so that none grows large.

    Two uploads of one digest run beside each other, each in a file of its own; both end with the same content under
    the same name. An upload replaces what stands there, which heals a blob that was damaged on disk.

    Deleting looks at when somebody stored or touched a blob last, and nothing that changes that of the same blob runs
    meanwhile.
    """

    def __init__(self, disk: Disk, objects: Objects, *, max_bytes: int) -> None:
        self._disk = disk
        self._objects = objects
        self._max_bytes = max_bytes
        self._changing: dict[str, _Changing] = {}

    async def find(self, digest: str) -> Blob | None:
        """A blob, if it is there.

        Raises:
            RequestError: this is no digest.
        """
        stat = await self._objects.stat(_key(digest))
        return None if stat is None else Blob(digest, stat.size_bytes)

    async def touch(self, digest: str) -> Blob | None:
        """As `find`; one that is there counts as having been stored just now.

        Raises:
            RequestError: this is no digest.
        """
        key = _key(digest)
        async with self._alone(digest):
            stat = await self._objects.touch(key)
        return None if stat is None else Blob(digest, stat.size_bytes)

    async def unused(self, unused_s: float, token: str) -> tuple[list[str], str]:
        """Digests of blobs that nobody stored or touched for so long, and the next token ('' at the end).

        Raises:
            RequestError: the token is wrong.
        """
        name = token or "00"
        if name not in _FOLDERS:
            raise RequestError("This page token was not made by this service.", field="page_token")
        before = time.time() - unused_s
        stats = await self._objects.stats(f"blobs/{name}")
        found = [stat.key.rpartition("/")[2] for stat in stats if stat.changed_at < before]
        following = _FOLDERS.index(name) + 1
        return found, _FOLDERS[following] if following < len(_FOLDERS) else ""

    async def delete(self, digests: Collection[str], unused_s: float) -> list[str]:
        """Deletes blobs, except those that somebody stored or touched less than so long ago; returns these.

        Readers that have one open keep it until they are done.

        Raises:
            RequestError: one is no digest.
        """
        keys = {digest: _key(digest) for digest in digests}
        kept: list[str] = []
        for digest, key in keys.items():
            async with self._alone(digest):
                if not await self._objects.remove(key, unused_s=unused_s):
                    kept.append(digest)
        return kept

    async def put(self, blob: Blob, chunks: AsyncIterator[bytes | memoryview]) -> bool:
        """Stores a blob; False, without reading the chunks, if it is there.

        Raises:
            RequestError: the header is wrong, or the bytes are others than announced.
            DiskFullError: there is no room.
        """
        if await self.touch(blob.digest) == blob:
            return False
        if not 0 <= blob.size_bytes <= self._max_bytes:
            raise TooLargeError(
                f"{blob.size_bytes:,} bytes are announced; this service takes up to {self._max_bytes:,} in one blob.",
                field="size_bytes",
            )
        with incoming(self._disk, blob) as upload:
            await receive(upload, chunks)
            async with self._alone(blob.digest):
                await self._objects.keep(upload, _key(blob.digest))
        return True

    @asynccontextmanager
    async def _alone(self, digest: str) -> AsyncIterator[None]:
        changing = self._changing.setdefault(digest, _Changing())
        changing.users += 1
        try:
            async with changing.lock:
                yield
        finally:
            changing.users -= 1
            if not changing.users:
                del self._changing[digest]

    async def read(self, digest: str, offset: int) -> AsyncGenerator[bytes, None]:
        """Streams a blob from an offset, verified.

        Raises:
            MissingError: it is not there.
            DamagedError: it is damaged; it is set aside, and a new upload will be accepted.
            RequestError: this is no digest, or the offset lies outside.
        """
        damaged = DamagedError(f"The blob {digest} was damaged and is set aside. Store it again.")
        try:
            async with self._objects.open(_key(digest), offset) as opened:
                async for piece in serve(opened, digest=digest, offset=offset, damaged=damaged):
                    yield piece
        except FileNotFoundError as error:
            raise MissingError(f"There is no blob {digest}. Store it again.") from error


def _key(digest: str) -> str:
    check_digest(digest)
    return f"blobs/{digest[:2]}/{digest}"
