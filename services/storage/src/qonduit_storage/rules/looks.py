"""Tells by its first bytes what a content looks like, for a refusal that helps."""

from __future__ import annotations

import re
from typing import Final

START_BYTES: Final = 512
"""How much of a content is looked at: as much as a tar's header."""

_STARTS: Final = (
    (b"PK\x03\x04", "a zip archive"),
    (b"PK\x05\x06", "a zip archive"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"\x1f\x8b", "something compressed by gzip"),
    (b"BZh", "something compressed by bzip2"),
    (b"\xfd7zXZ\0", "something compressed by xz"),
    (b"\x28\xb5\x2f\xfd", "something compressed by zstd"),
)
_MAGIC: Final = slice(257, 262)
_NUMBERS: Final = (slice(100, 108), slice(108, 116), slice(116, 124), slice(124, 136), slice(136, 148), slice(148, 156))
"""Mode, user, group, size, time, checksum."""
_DAMAGED_NUMBERS: Final = 1
_OCTAL: Final = re.compile(rb"[ \0]*[0-7]+[ \0]*")


def hint(start: bytes, advice: dict[str, str]) -> str:
    """What to add to a refusal: what the content looks like, with the advice for that kind."""
    kind = _kind(start)
    return f" (it looks like {kind}{advice.get(kind, '')})" if kind else ""


def is_tar_header(block: bytes) -> bool:
    """Whether its magic, or all of its numbers but one, say that it was written as the header of a tar."""
    if block[_MAGIC] == b"ustar":
        return True
    numbers = sum(_OCTAL.fullmatch(block[field]) is not None for field in _NUMBERS)
    return numbers >= len(_NUMBERS) - _DAMAGED_NUMBERS


def _kind(start: bytes) -> str:
    known = next((kind for magic, kind in _STARTS if start.startswith(magic)), "")
    if known:
        return known
    if is_tar_header(start):
        return "a tar archive"
    if not start.isascii() or b"\0" in start:
        return ""
    return "JSON" if start.lstrip().startswith((b"{", b"[")) else "plain text"
