"""An artifact that was sent as what is new, and copies of what an earlier version has."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qonduit_service_kit.chunks import Chunk

_IN_MEMORY_BYTES = 8 * 1024 * 1024
_PIECE_BYTES = 512 * 1024


class CopyError(ValueError):
    """A copy lies outside of the version that it is made of."""


class BaseArtifact:
    """An earlier version's artifact, to copy from; a context manager."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES)  # noqa: SIM115 - Closed by __exit__.
        self._size_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, chunk: Chunk) -> None:
        """Take its next bytes."""
        self._file.write(chunk)
        self._size_bytes += len(chunk)

    def pieces(self, offset: int, length: int) -> Iterator[bytes]:
        """Yield a range of its bytes; CopyError if there is none such."""
        if not 0 <= offset <= offset + length <= self._size_bytes:
            raise CopyError(
                f"Bytes {offset:,} to {offset + length:,} are not in the base version, which has {self._size_bytes:,}."
            )
        self._file.seek(offset)
        while length:
            piece = self._file.read(min(length, _PIECE_BYTES))
            length -= len(piece)
            yield piece
