"""What a space keeps about a file, and how it is written down."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One file of a space."""

    name: str
    size_bytes: int
    digest: str
    """sha256 of its bytes, in hexadecimal."""
    stored_at_ns: int
    """Nanoseconds since 1970, UTC."""

    def to_json(self) -> bytes:
        """The record as it is kept."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, text: bytes) -> FileRecord:
        """Reads what ``to_json`` wrote; fields of newer versions are ignored.

        Raises:
            ValueError: it cannot be read.
        """
        try:
            values = json.loads(text)
            return cls(
                name=str(values["name"]),
                size_bytes=int(values["size_bytes"]),
                digest=str(values["digest"]),
                stored_at_ns=int(values["stored_at_ns"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a record of a file: {error!r}") from error


def folder_name(key: str) -> str:
    """A name for the file system that stands for any text.

    Users' names never become paths: file systems disagree about case, about Unicode normalisation and about length.
    """
    return hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()
