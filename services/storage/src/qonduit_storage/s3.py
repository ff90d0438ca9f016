"""Objects in a store that speaks S3, through obstore: retries with backoff, multipart uploads, signatures are its own.

An upload is written to the data folder, hashed and checked first, and sent on once it is good: nothing half or wrong
ever comes near the store, and what breaks off can go on. One service uses a prefix of a bucket; nothing guards it
against another.
"""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store
from qonduit_service_kit.logs import get_logger

from qonduit_storage.directory import check_offset
from qonduit_storage.errors import StorageError, StoreUnavailableError
from qonduit_storage.objects import Stat

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from obstore import GetOptions, GetResult, ObjectMeta
    from obstore.store import BackoffConfig, ClientConfig, S3Config

    from qonduit_storage.incoming import Incoming
    from qonduit_storage.settings import StorageSettings

_PIECE_BYTES: Final = 1024 * 1024
_PART_BYTES: Final = 8 * 1024 * 1024
_PARTS_AT_ONCE: Final = 4
"""Of one upload: with the parts' size, what it holds in memory."""
_SMALL_AT_ONCE: Final = 32
_TOUCH_AGAIN_S: Final = 24 * 3600.0
_MOST_TOUCHED: Final = 100_000
_BACKOFF: Final[BackoffConfig] = {"max_backoff": timedelta(seconds=5)}
_MOST_RETRIES: Final = 1_000_000
"""More than anyone's patience has time for: how long a request is repeated is said in seconds alone."""
_STATUS: Final = re.compile(r"status code: (\d{3})")
_TRIED: Final = re.compile(r" in (\d+)[\d.]*s, after \d+ retries")
_log = get_logger("s3")


class OpenS3Object:
    """An object that is being read; its bytes begin at the offset that it was opened for."""

    def __init__(self, objects: S3Objects, key: str, size_bytes: int, *, result: GetResult | None, offset: int) -> None:
        self._objects = objects
        self._key = key
        self._result = result
        self.size_bytes = size_bytes
        self.starts_at = offset

    async def pieces(self) -> AsyncIterator[bytes]:
        """Its bytes."""
        if self._result is None:
            return
        with _translated(self._key):
            async for piece in self._result.stream(min_chunk_size=_PIECE_BYTES):
                yield bytes(piece)

    async def set_aside(self) -> None:
        """Copies it to `quarantine/` and removes it."""
        await self._objects.set_aside(self._key)


class S3Objects:
    """Objects of a bucket, under a prefix.

    S3 has no way to touch an object: what was touched here lately is remembered, and an object older than a day counts
    as missing when it is touched, so that whoever needs it stores it again. After a start everything counts as touched
    for a short while, since what was remembered is gone.
    """

    def __init__(self, store: S3Store) -> None:
        self._store = store
        self._touched: dict[str, float] = {}
        self._started_at = time.time()

    async def prepare(self) -> None:
        """Looks whether the bucket is there and may be used."""
        content = b"Written by the storage service of Qonduit when it starts.\n"
        _log.info("trying to write to the bucket; a store that does not answer is waited for")
        try:
            await obstore.put_async(self._store, "qonduit-storage", content, use_multipart=False)
        except (BaseError, OSError) as error:
            raise StorageError(
                f"The bucket cannot be used: the object store {_problem(error)}. Check QONDUIT_STORAGE_S3_BUCKET, "
                "_S3_ENDPOINT, _S3_REGION and the credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY). "
                f"This is what went wrong: {_reason(error)}"
            ) from error

    async def keep(self, upload: Incoming, key: str) -> None:
        """Sends it, in parts if it is large. The last request is the commit: before it nothing is seen.

        A crash on the way may leave parts: have the bucket's lifecycle remove incomplete uploads.
        """
        with _translated(key, writing=True):
            path, many = upload.path, _PARTS_AT_ONCE
            await obstore.put_async(self._store, key, path, chunk_size=_PART_BYTES, max_concurrency=many)
        self._touch(key)

    async def write(self, key: str, content: bytes) -> None:
        """Sends it in one request."""
        with _translated(key, writing=True):
            await obstore.put_async(self._store, key, content, use_multipart=False)

    @asynccontextmanager
    async def open(self, key: str, offset: int) -> AsyncIterator[OpenS3Object]:
        """An object from an offset on. What lies before it is not read: verifying it would cost as much as the rest."""
        result: GetResult | None = None
        with _translated(key):
            size = 0
            if offset:
                size = int((await obstore.head_async(self._store, key))["size"])
                check_offset(offset, size)
            if not offset or offset < size:  # There is no range of no bytes.
                options: GetOptions = {"range": {"offset": offset}} if offset else {}
                result = await obstore.get_async(self._store, key, options=options)
                size = int(result.meta["size"])
        yield OpenS3Object(self, key, size, result=result, offset=offset)

    async def stat(self, key: str) -> Stat | None:
        """What the store says."""
        try:
            with _translated(key):
                return self._stat(await obstore.head_async(self._store, key))
        except FileNotFoundError:
            return None

    async def touch(self, key: str) -> Stat | None:
        """Remembers that it is needed, unless it is so old that it had better be stored again."""
        stat = await self.stat(key)
        if stat is None or time.time() - stat.changed_at > _TOUCH_AGAIN_S:
            return None
        self._touch(key)
        return stat

    def _touch(self, key: str) -> None:
        if len(self._touched) >= _MOST_TOUCHED:
            # Counts for all of them, then: nothing is forgotten that would let an object go.
            self._started_at = time.time()
            self._touched.clear()
        self._touched[key] = time.time()

    async def remove(self, key: str, *, unused_s: float = 0.0) -> bool:
        """Removes it."""
        if unused_s:
            stat = await self.stat(key)
            if stat is not None and stat.changed_at >= time.time() - unused_s:
                return False
            # What was remembered of touches is gone with the last life; an object is touched for a day at most.
            then = time.time() - unused_s
            if stat is not None and self._started_at >= then and stat.changed_at + _TOUCH_AGAIN_S >= then:
                return False
        try:
            with _translated(key):
                await obstore.delete_async(self._store, key)
        except FileNotFoundError:
            pass
        self._touched.pop(key, None)
        return True

    async def stats(self, folder: str) -> list[Stat]:
        """What is in a folder."""
        found: list[Stat] = []
        with _translated(folder):
            async for page in obstore.list(self._store, prefix=f"{folder}/"):
                found += [self._stat(meta) for meta in page]
        return found

    async def small(self, folder: str) -> list[tuple[str, bytes]]:
        """All objects of a folder."""
        gate = asyncio.Semaphore(_SMALL_AT_ONCE)

        async def read(key: str) -> tuple[str, bytes]:
            async with gate:
                with _translated(key):
                    result = await obstore.get_async(self._store, key)
                    return key, bytes(await result.bytes_async())

        return list(await asyncio.gather(*(read(stat.key) for stat in await self.stats(folder))))

    async def set_aside(self, key: str) -> None:
        """Copies a damaged object to `quarantine/` and removes it."""
        with _translated(key):
            await obstore.copy_async(self._store, key, f"quarantine/{key}-{time.time_ns()}")
            await obstore.delete_async(self._store, key)

    def _stat(self, meta: ObjectMeta) -> Stat:
        key = meta["path"]
        return Stat(key, int(meta["size"]), max(meta["last_modified"].timestamp(), self._touched.get(key, 0.0)))


def s3_store(settings: StorageSettings) -> S3Store:
    """The store that the settings name; credentials are where all clients of S3 look for them."""
    config: S3Config = {"bucket": settings.s3_bucket, "region": settings.s3_region}
    options: ClientConfig = {"timeout": timedelta(days=1), "connect_timeout": timedelta(seconds=10)}
    if settings.s3_endpoint:
        config["endpoint"] = settings.s3_endpoint
        options["allow_http"] = settings.s3_endpoint.startswith("http://")
    return S3Store(
        prefix=settings.s3_prefix or None,
        config=config,
        client_options=options,
        retry_config={
            "backoff": _BACKOFF,
            "max_retries": _MOST_RETRIES,
            "retry_timeout": timedelta(seconds=settings.s3_patience_s),
        },
    )


@contextmanager
def _translated(key: str, *, writing: bool = False) -> Iterator[None]:
    """Turns what obstore raises into ours; FileNotFoundError stays, unless nothing need be there.

    Raises:
        StoreUnavailableError: it does not answer, or refuses; obstore has tried for a while.
    """
    try:
        yield
    except (BaseError, OSError) as error:
        if isinstance(error, FileNotFoundError) and not writing:
            raise
        # The library's text names addresses and keys: it is for the operator, and not for users.
        _log.error("object store failed", key=key, error=str(error))
        raise StoreUnavailableError(
            f"The object store behind the storage service {_problem(error)}. Try again in a moment; if it stays, tell "
            "the operator, who finds more in the storage service's log."
        ) from error


def _problem(error: Exception) -> str:
    """What went wrong, as far as the library's text tells."""
    text = _reason(error)
    status, tried = _STATUS.search(text), _TRIED.search(text)
    said = f" (HTTP {status[1]})" if status else ""
    if status and status[1].startswith("4"):
        return f"refuses what it is asked for{said}"
    return f"does not answer{said}" + (f", though it was tried for {tried[1]} s" if tried else "")


def _reason(error: Exception) -> str:
    """The library's text in one line, without what is for its own developers."""
    return " ".join(str(error).partition("Debug source:")[0].split()) or type(error).__name__
