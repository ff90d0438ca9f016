"""Where finished bytes are kept: a directory, or a store that speaks S3. Both keep whole objects under keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from qonduit_storage.incoming import Incoming


@dataclass(frozen=True, slots=True)
class Stat:
    """What is known of an object without reading it."""

    key: str
    size_bytes: int
    changed_at: float
    """Seconds since 1970: when it was stored, or touched last."""


class OpenObject(Protocol):
    """One version of an object, whatever takes its place meanwhile."""

    size_bytes: int
    starts_at: int
    """Offset of the first byte that `pieces` gives, where it was opened for an offset."""

    def pieces(self) -> AsyncIterator[bytes]:
        """Its bytes."""

    async def set_aside(self) -> None:
        """Moves it out of the way, unless another one has taken its place: it is damaged, and is kept for a look."""


class Objects(Protocol):
    """Objects under keys. What is written is whole and durable once the call returns, and never seen half."""

    async def prepare(self) -> None:
        """Makes ready what calls should not have to wait for.

        Raises:
            StorageError: it cannot be used; the text says what to do.
        """

    async def keep(self, upload: Incoming, key: str) -> None:
        """Keeps a finished upload, replacing what stands there: it should be equal, and may be damaged."""

    async def write(self, key: str, content: bytes) -> None:
        """Keeps a small object: readers, and a crash, see the old one or the new one."""

    def open(self, key: str, offset: int) -> AbstractAsyncContextManager[OpenObject]:
        """An object to be read from an offset on.

        Raises:
            FileNotFoundError: there is none.
            RequestError: the offset lies outside.
        """

    async def stat(self, key: str) -> Stat | None:
        """What is known of an object, or None."""

    async def touch(self, key: str) -> Stat | None:
        """As `stat`; one that is there counts as having been stored just now."""

    async def remove(self, key: str, *, unused_s: float = 0.0) -> bool:
        """Removes an object, durably, if it is there; False if it is kept, as it was changed less than so long ago."""

    async def stats(self, folder: str) -> list[Stat]:
        """What is in a folder."""

    async def small(self, folder: str) -> list[tuple[str, bytes]]:
        """All objects of a folder that holds small ones: keys and contents."""
