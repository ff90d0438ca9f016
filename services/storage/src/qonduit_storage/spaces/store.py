"""All spaces."""

from __future__ import annotations

import asyncio
import base64
import binascii
from bisect import bisect_right
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qonduit_storage.blocking import in_thread
from qonduit_storage.errors import (
    CutOffError,
    DamagedFileError,
    IdleError,
    MissingFileError,
    RequestError,
    StoreUnavailableError,
    TooLargeError,
)
from qonduit_storage.incoming import incoming, receive
from qonduit_storage.outgoing import serve
from qonduit_storage.partials import key_of
from qonduit_storage.rules.content import UnfoldLimits, check_for
from qonduit_storage.rules.names import check_digest, check_file_name, check_space
from qonduit_storage.spaces.space import Space

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from qonduit_storage.disk import Disk
    from qonduit_storage.objects import Objects, OpenObject
    from qonduit_storage.partials import Partials
    from qonduit_storage.spaces.records import FileRecord

PAGE_LIMIT = 1000


@dataclass(frozen=True, slots=True)
class OfferedFile:
    """What a caller says about a file to come."""

    space: str
    name: str
    size_bytes: int
    digest: str
    offset: int = 0
    """Where it goes on, when what comes before is here already."""


class SpaceStore:
    """Keeps users' files. A space is read when it is first asked for, and then stays in memory."""

    def __init__(
        self, disk: Disk, objects: Objects, partials: Partials, *, max_bytes: int, unfold: UnfoldLimits
    ) -> None:
        self._disk = disk
        self._objects = objects
        self._partials = partials
        self._max_bytes = max_bytes
        self._unfold = unfold
        self._spaces: dict[str, asyncio.Task[Space]] = {}

    async def put(
        self, offer: OfferedFile, chunks: AsyncIterator[bytes | memoryview], *, limit_bytes: int = 0
    ) -> FileRecord:
        """Stores a file once its name, its content and its digest are found good.

        The bytes are read even if they are here already: who names a digest has not shown that they hold the bytes.

        Raises:
            FileNameError, FileContentError: the rules are broken.
            RequestError: the bytes are others than announced, or too many.
            QuotaError: the space would have more than `limit_bytes`; said before any byte is read.
            DiskFullError: there is no room.
            UploadLostError: it cannot go on where it says.
        """
        check_file_name(offer.name)
        check_digest(offer.digest)
        if not 0 <= offer.offset <= max(0, offer.size_bytes):
            raise RequestError("The offset lies outside of the file.", field="offset")
        if not 0 <= offer.size_bytes <= self._max_bytes:
            raise TooLargeError(
                f"The file {offer.name!a} has {offer.size_bytes:,} bytes; this service takes files of up to "
                f"{self._max_bytes:,}. Split it.",
                field="size_bytes",
            )
        check = check_for(offer.name, offer.size_bytes, self._unfold)
        space = await self._space(offer.space)
        with (
            space.promise(offer.name, offer.size_bytes, limit_bytes),
            self._partials.running(offer),
            incoming(self._disk, offer, check, path=self._path_for(offer), offset=offer.offset) as upload,
        ):
            try:
                await receive(upload, chunks)
                return await space.keep(upload, offer.name, offer.size_bytes, offer.digest, limit_bytes=limit_bytes)
            except (asyncio.CancelledError, CutOffError, IdleError, StoreUnavailableError):
                # Its sender is gone, or the store is, and may come back. Of a connection that broke the end of the
                # stream may be seen before the cancellation.
                await in_thread(self._partials.keep, upload, offer)
                raise

    def _path_for(self, offer: OfferedFile) -> Path:
        return self._partials.take(offer) if offer.offset else self._disk.new_path(key_of(offer))

    async def received_bytes(self, offer: OfferedFile, *, limit_bytes: int = 0) -> int:
        """How much of an upload that broke off is here, to go on from.

        Raises:
            QuotaError: the upload would be refused.
        """
        check_digest(offer.digest)
        space = await self._space(offer.space)
        received = await self._partials.received_bytes(offer)
        space.check_room(offer.name, offer.size_bytes, limit_bytes)
        return received

    async def usage(self, space: str) -> tuple[int, int]:
        """How many files a space has, and how many bytes they have together."""
        opened = await self._space(space)
        return len(opened.names()), opened.used_bytes

    async def stat(self, space: str, name: str) -> FileRecord:
        """What is known of a file.

        Raises:
            MissingFileError: there is none.
        """
        found = (await self._space(space)).find(name)
        if found is None:
            raise _missing(name)
        return found

    @asynccontextmanager
    async def read(self, space: str, name: str, offset: int) -> AsyncIterator[tuple[FileRecord, AsyncIterator[bytes]]]:
        """A file as it is at this moment, and its bytes from an offset, verified.

        Raises:
            MissingFileError: there is none.
            DamagedFileError: also while streaming: it is damaged, and is set aside.
            RequestError: while streaming: the offset lies outside.
        """
        opened = await self._space(space)
        async with AsyncExitStack() as stack:
            record, content = await self._open(stack, opened, name, offset)
            yield record, serve(content, digest=record.digest, offset=offset, damaged=_damaged(name))

    async def _open(self, stack: AsyncExitStack, space: Space, name: str, offset: int) -> tuple[FileRecord, OpenObject]:
        """A file as it is at one moment.

        Content is dropped only after its record was replaced: where it is gone and the record is another one, that one
        is read.
        """
        before: FileRecord | None = None
        while True:
            record = space.find(name)
            if record is None:
                raise _missing(name)
            try:
                return record, await stack.enter_async_context(self._objects.open(space.content_key(record), offset))
            except FileNotFoundError as error:
                if record == before:
                    raise _damaged(name) from error
                before = record

    async def page(self, space: str, size: int, token: str) -> tuple[Sequence[FileRecord], str]:
        """Files after a page token, by name, and the next token ('' at the end).

        Raises:
            RequestError: the token or the size is wrong.
        """
        if size < 0:
            raise RequestError("The page size is negative; leave it out or make it larger.", field="page_size")
        opened = await self._space(space)
        names = opened.names()
        start = bisect_right(names, _name_of(token)) if token else 0
        end = start + min(size or PAGE_LIMIT, PAGE_LIMIT)
        files = [record for name in names[start:end] if (record := opened.find(name)) is not None]
        return files, _token_of(names[end - 1]) if end < len(names) else ""

    async def delete(self, space: str, name: str) -> None:
        """Deletes a file.

        Raises:
            MissingFileError: there is none.
        """
        if not await (await self._space(space)).delete(name):
            raise _missing(name)

    async def _space(self, name: str) -> Space:
        check_space(name)
        loading = self._spaces.get(name)
        if loading is None:
            loading = self._spaces[name] = asyncio.create_task(self._load(name))
        # Several callers wait for one load, and none of them may cancel it for the others.
        return await asyncio.shield(loading)

    async def _load(self, name: str) -> Space:
        space = Space(self._objects, name)
        try:
            await space.load()
        except BaseException:
            del self._spaces[name]
            raise
        return space


def _damaged(name: str) -> DamagedFileError:
    return DamagedFileError(f"The file {name!a} was damaged and is set aside. Upload it again.")


def _missing(name: str) -> MissingFileError:
    return MissingFileError(f"There is no file {name!a} in this space. List the files to see what is there.")


def _token_of(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode()


def _name_of(token: str) -> str:
    try:
        return base64.urlsafe_b64decode(token).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise RequestError("This page token was not made by this service.", field="page_token") from error
