"""Chooses the check of a file's content by its name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from qonduit_storage.errors import FileContentError
from qonduit_storage.rules.gzipped import GzipTarCheck
from qonduit_storage.rules.hdf5 import Hdf5Check
from qonduit_storage.rules.tar import TarCheck

_GZIP_MAGIC = b"\x1f\x8b"


class ContentCheck(Protocol):
    """Takes a file's bytes in order, in any pieces, and raises FileContentError when they break the rules."""

    def feed(self, piece: bytes | memoryview) -> None:
        """Takes the next bytes."""

    def finish(self) -> None:
        """Tells that there are no more bytes."""


@dataclass(frozen=True, slots=True)
class UnfoldLimits:
    """How far a compressed archive may unfold while it is checked."""

    free_bytes: int = 256 * 1024**2
    limit_bytes: int = 64 * 1024**3


class ArchiveCheck:
    """Checks a tar, plain or compressed by gzip; the first two bytes tell which."""

    def __init__(self, limits: UnfoldLimits) -> None:
        self._limits = limits
        self._start = b""
        self._check: ContentCheck | None = None

    def feed(self, piece: bytes | memoryview) -> None:
        """Takes the next bytes.

        Raises:
            FileContentError: they cannot be part of a tar.
        """
        if self._check is None:
            self._start += piece
            if len(self._start) < len(_GZIP_MAGIC):
                return
            piece, self._start = self._start, b""
            self._check = self._choose(piece)
        self._check.feed(piece)

    def finish(self) -> None:
        """Tells that there are no more bytes.

        Raises:
            FileContentError: the archive is not complete.
        """
        check = self._check
        if check is None:
            check = TarCheck()
            check.feed(self._start)
        check.finish()

    def _choose(self, start: bytes) -> ContentCheck:
        if start.startswith(_GZIP_MAGIC):
            return GzipTarCheck(free_bytes=self._limits.free_bytes, limit_bytes=self._limits.limit_bytes)
        return TarCheck()


def check_for(name: str, size_bytes: int, limits: UnfoldLimits) -> ContentCheck:
    """The check for a file of this name and size.

    Raises:
        FileContentError: the file is empty.
    """
    if size_bytes == 0:
        raise FileContentError(
            f"The file {name!a} is empty. Only tar archives and HDF5 files are kept.", field="content"
        )
    return Hdf5Check(size_bytes) if name.endswith(".h5") else ArchiveCheck(limits)
