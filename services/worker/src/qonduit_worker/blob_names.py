"""How blobs are named, and how it is told that two of them are one.

What is in storage, or may get there as it is, is named by the sha256 of its content. What an attempt makes on its
driver's worker mostly never leaves that machine: it gets a number, which takes no time to work out.
"""

from __future__ import annotations

import hashlib
import os
import re
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from pathlib import Path

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_LOCAL: Final = re.compile(r"local-[1-9][0-9]{0,17}")
_COMPARED_BYTES: Final = 256 * 1024
"""At a time: of both files, so that they stay in the processor's cache."""


class Hash(Protocol):
    """A hash of bytes that come in pieces, as those of `hashlib`."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Take the next piece."""
        ...

    def hexdigest(self) -> str:
        """Return the hash of all so far."""
        ...


def is_digest(text: str) -> bool:
    """Tell whether a text could be a sha256 in hexadecimal."""
    return _DIGEST.fullmatch(text) is not None


def is_name(text: str) -> bool:
    """Tell whether a text could be the name of a blob that a task made or is given."""
    return is_digest(text) or _LOCAL.fullmatch(text) is not None


def local_name(number: int) -> str:
    """Return the name of a local blob on its driver's worker; it cannot be taken for a sha256."""
    return f"local-{number}"


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file in hexadecimal."""
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def same_bytes(one: Path, other: Path) -> bool:
    """Tell whether two files that nobody writes to hold the same bytes; one that has gone meanwhile does not."""
    try:
        with one.open("rb", buffering=0) as first, other.open("rb", buffering=0) as second:
            if os.fstat(first.fileno()).st_size != os.fstat(second.fileno()).st_size:
                return False
            while data := first.read(_COMPARED_BYTES):
                if data != second.read(_COMPARED_BYTES):
                    return False
            return True
    except FileNotFoundError:
        return False
