"""Reads the headers of a tar while its bytes pass by; never unpacks anything."""

from __future__ import annotations

import hashlib
import tarfile
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from qonduit_service_kit.chunks import Chunk

_BLOCK = 512
_PAX_LIMIT_BYTES = 1024 * 1024
_PAX_LENGTH_DIGITS = 7
_PAX_SIZE_DIGITS = 18
_GZIP, _ZIP = b"\x1f\x8b", b"PK\x03\x04"
_END = bytes(_BLOCK)
_EMPTY = hashlib.sha256().hexdigest()


class NotATarError(ValueError):
    """The artifact does not read as a tar. The text says what it seems to be."""


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a tar."""

    path: str
    size_bytes: int
    offset: int = 0
    """Where its bytes begin in the tar."""
    digest: str = ""
    """sha256 of its bytes, if they were looked at."""


@dataclass(slots=True)
class TarListing:
    """What a tar holds, gathered from its bytes in pieces of any size; with `hashing` also what is in its files."""

    hashing: bool = False
    members: list[Member] = field(default_factory=list)
    unsafe: list[str] = field(default_factory=list)
    """Names that would leave the folder, and things that are neither file, folder nor link."""
    ended: bool = False
    _pending: bytearray = field(default_factory=bytearray)
    _skip: int = 0
    _wanted: int = _BLOCK
    _on_block: Callable[[bytes], None] | None = None
    _long_name: str = ""
    _long_size: int | None = None
    _started: bool = False
    _position: int = 0
    _content_left: int = 0
    _content: hashlib._Hash = field(default_factory=hashlib.sha256)

    def feed(self, chunk: Chunk) -> None:
        """Take the next bytes; NotATarError when they can't be a tar's."""
        self._pending += chunk
        while not self.ended:
            if self._skip:
                dropped = min(self._skip, len(self._pending))
                if self._content_left:
                    self._look_at(memoryview(self._pending)[: min(dropped, self._content_left)])
                del self._pending[:dropped]
                self._skip -= dropped
                self._position += dropped
            if self._skip or len(self._pending) < self._wanted:
                return
            block = bytes(self._pending[: self._wanted])
            del self._pending[: self._wanted]
            self._position += len(block)
            (self._on_block or self._header)(block)
        self._pending.clear()

    def finish(self) -> None:
        """Check that the tar was whole; NotATarError when it was cut off or there was none."""
        if not self._started or (not self.ended and (self._skip or self._pending)):
            raise NotATarError("The artifact ends in the middle of a file. Pack it again.")

    def largest(self, count: int) -> list[Member]:
        """Return the largest files, largest first."""
        return sorted(self.members, key=lambda member: -member.size_bytes)[:count]

    def _header(self, block: bytes) -> None:
        if block == _END:
            self._started = True
            self.ended = True
            return
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise NotATarError(_looks_like(block, first=not self._started)) from error
        self._started = True
        if info.type == tarfile.GNUTYPE_LONGNAME:
            self._take(info.size, self._gnu_name)
        elif info.type in {tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE}:
            self._take(info.size, self._pax)
        else:
            self._member(info)

    def _member(self, info: tarfile.TarInfo) -> None:
        path = self._long_name or info.name
        size = info.size if self._long_size is None else self._long_size
        self._long_name, self._long_size = "", None
        if info.type in {tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK}:
            self._skip = _padded(size)
            return
        plain = PurePosixPath(path)
        if plain.is_absolute() or ".." in plain.parts or not (info.isreg() or info.isdir() or info.issym()):
            self.unsafe.append(path)
        if info.isreg():
            self.members.append(Member(plain.as_posix(), size, self._position, _EMPTY if self.hashing else ""))
            self._skip = _padded(size)
            self._content_left, self._content = (size if self.hashing else 0), hashlib.sha256()

    def _look_at(self, content: memoryview) -> None:
        with content:
            self._content.update(content)
            self._content_left -= len(content)
        if not self._content_left:
            self.members[-1] = replace(self.members[-1], digest=self._content.hexdigest())

    def _take(self, size: int, handler: Callable[[bytes], None]) -> None:
        if not 0 < size <= _PAX_LIMIT_BYTES:
            raise NotATarError("The artifact has a header of an impossible size. Pack it again.")

        def handle(block: bytes) -> None:
            self._wanted, self._on_block = _BLOCK, None
            handler(block[:size])

        self._wanted, self._on_block = _padded(size), handle

    def _gnu_name(self, body: bytes) -> None:
        self._long_name = body.rstrip(b"\0").decode("utf-8", "surrogateescape")

    def _pax(self, body: bytes) -> None:
        start = 0
        while start < len(body):
            # Searched and cut in place: copying the rest for each record would take minutes for a header full of them.
            space = body.find(b" ", start, start + _PAX_LENGTH_DIGITS + 1)
            length = body[start:space] if space > start else b""
            if not length.isdigit() or not len(length) < int(length) <= len(body) - start:
                return
            end = start + int(length)
            name, _, value = body[space + 1 : end - 1].partition(b"=")
            start = end
            if name == b"path":
                self._long_name = value.decode("utf-8", "surrogateescape")
            elif name == b"size" and value.isdigit() and len(value) <= _PAX_SIZE_DIGITS:
                self._long_size = int(value)


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _looks_like(block: bytes, *, first: bool) -> str:
    if first and block.startswith(_GZIP):
        return "The artifact is compressed with gzip. Send the tar itself."
    if first and block.startswith(_ZIP):
        return "The artifact is a zip file. Send a tar."
    return "The artifact is not a tar, or is damaged. Pack the working directory as a tar."
