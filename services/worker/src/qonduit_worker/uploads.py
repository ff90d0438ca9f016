"""Bytes that a program sends in pieces, gathered in a file until all are there."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import uuid
from typing import TYPE_CHECKING, Final

from qonduit_worker.program_channel import RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from qonduit_worker.blob_names import Hash

_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class Upload:
    """One upload; it ends with `complete` or `discard`. Raises RequestError, also when the disk is full.

    Nobody may open its file to write, even while it grows.
    """

    def __init__(
        self,
        path: Path,
        size_bytes: int,
        *,
        digest: str = "",
        name: str = "",
        new_hash: Callable[[], Hash] = hashlib.sha256,
    ) -> None:
        self.path = path
        self.name = name
        self._size_bytes = size_bytes
        self._digest = digest
        self._file = open(path, "wb", opener=_open_read_only)  # noqa: SIM115 - A path takes no opener; it outlives this.
        self._received = 0
        self._hash = new_hash()

    def add(self, data: bytes | memoryview) -> None:
        """Take a piece; raises RequestError when it is more than was announced."""
        self._received += len(data)
        if self._received > self._size_bytes:
            raise RequestError("TOO_MANY_BYTES", f"more than the announced {self._size_bytes} bytes came")
        self._hash.update(data)
        with self._told_of_a_full_disk():
            self._file.write(data)

    def complete(self, digest: str = "") -> str:
        """Close the file and return its hash; raises RequestError when it is not what was announced."""
        with self._told_of_a_full_disk():
            self._file.close()
        found = self._hash.hexdigest()
        if self._received != self._size_bytes:
            raise RequestError("TOO_FEW_BYTES", f"{self._received} of {self._size_bytes} bytes came")
        if found not in {digest or found} & {self._digest or found}:
            raise RequestError("DIGEST_MISMATCH", "the bytes are not those of the digest that came with them")
        return found

    def discard(self) -> None:
        """Remove what came so far."""
        with contextlib.suppress(OSError):  # A buffer that a full disk did not take.
            self._file.close()
        self.path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _told_of_a_full_disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in _NO_SPACE:
                raise
            raise RequestError(
                "DISK_FULL", f"the worker's disk is full: {self._received:,} of {self._size_bytes:,} bytes came"
            ) from error


def _open_read_only(path: str, flags: int) -> int:
    """Open a new file that is read-only for all who open it later."""
    return os.open(path, flags | os.O_CLOEXEC, 0o400)


class Uploads:
    """The uploads of one kind that a sandbox has begun: few at a time."""

    def __init__(self, folder: Path, *, most_bytes: int, most: int = 16) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._most = most
        self._open: dict[str, Upload] = {}

    def begin(self, size_bytes: int, *, key: str = "", digest: str = "", name: str = "") -> str:
        """Begin one and return its key; one of the same key begins anew."""
        if size_bytes > self._most_bytes:
            raise RequestError("TOO_LARGE", f"{size_bytes} bytes are more than the {self._most_bytes} that are allowed")
        key = key or uuid.uuid4().hex
        if key in self._open:
            self._open.pop(key).discard()
        if len(self._open) >= self._most:
            raise RequestError("TOO_MANY_UPLOADS", f"{self._most} uploads are open already")
        self._open[key] = Upload(self._folder / f"{uuid.uuid4().hex}.part", size_bytes, digest=digest, name=name)
        return key

    def find(self, key: str) -> Upload:
        """Return an open upload; without a key the one that was begun last."""
        upload = self._open.get(key or next(reversed(self._open), ""))
        if upload is None:
            raise RequestError("NO_UPLOAD", "no upload was begun")
        return upload

    def take(self, key: str) -> Upload:
        """Return an open upload, which is the caller's from now on."""
        upload = self.find(key)
        self._open = {name: other for name, other in self._open.items() if other is not upload}
        return upload

    def discard_all(self) -> None:
        """Remove what was never finished."""
        for upload in self._open.values():
            upload.discard()
        self._open.clear()
