"""A user's files: one flat space, the same from a notebook and from inside a program.

Where the bytes go is a `FileSpace`; this module holds its contract, what is the same for every kind of
it, and the kind that talks to a server. `qonduit.program_files` holds the kind for programs.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from qonduit.exceptions import InvalidFileError, ServerUnavailableError, TransferDamagedError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from qonduit.connection import Connection

CHUNK_BYTES = 1024**2


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file in the space."""

    name: str
    size_bytes: int
    digest: str
    """sha256, in hexadecimal."""


class FileSpace(Protocol):
    """Where a user's files are."""

    def list_files(self) -> list[StoredFile]:
        """Return the files by name."""

    def upload(self, source: Path, file: StoredFile) -> None:
        """Store a file; readers see the old one or the new one, never a part.

        Raises:
            InvalidFileError: Name or content is not allowed.
        """

    def download(self, name: str) -> Generator[StoredFile | bytes, None, None]:
        """Yield what the file is, then its bytes; StoredFileNotFoundError if there is none."""

    def delete(self, name: str) -> None:
        """Delete a file; StoredFileNotFoundError if there is none."""


def describe_local(path: Path, name: str | None) -> StoredFile:
    """Return what a local file will be called and what is in it; FileNotFoundError if there is none.

    Raises:
        InvalidFileError: It is a folder, or its name is neither a tar's nor an h5 file's.
    """
    if path.is_dir():
        raise InvalidFileError(
            f"{path} is a folder. Pack it first, as in `tar -cf {path.name}.tar {path.name}`.",
            reason="INVALID_FILE_CONTENT",
        )
    stored_name = name or path.name
    if not stored_name.endswith((".tar", ".h5")):
        raise InvalidFileError(
            f"{stored_name!r} is neither a .tar nor an .h5 file, and only those can be stored. "
            f"Pack it into a tar, as in `tar -cf {Path(stored_name).stem}.tar {path.name}`.",
            reason="INVALID_FILE_NAME",
        )
    with path.open("rb") as source:
        digest = hashlib.file_digest(source, "sha256").hexdigest()
        return StoredFile(stored_name, os.fstat(source.fileno()).st_size, digest)


def save(parts: Iterator[StoredFile | bytes], folder: Path, name: str | None) -> Path:
    """Write a download next to where it goes, check it, and move it there in one step.

    Without a name it is called `downloaded_<digest>_<its name>`, so that nothing else is ever overwritten.

    Raises:
        TransferDamagedError: The bytes aren't those that were stored.
    """
    file = next(parts)
    if not isinstance(file, StoredFile):
        raise TransferDamagedError(f"The download did not say what it is, but began with {file[:16]!r}.")
    target = folder / (name or f"downloaded_{file.digest[:8]}_{file.name}")
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        digest = hashlib.sha256()
        with os.fdopen(handle, "wb") as output:
            for part in parts:
                if isinstance(part, bytes):
                    digest.update(part)
                    output.write(part)
        if digest.hexdigest() != file.digest:
            raise TransferDamagedError(f"{file.name} arrived damaged; nothing was written to {target}.")
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
    return target


def chunks(source: Path) -> Iterator[bytes]:
    """Yield a file's bytes in pieces that fit into a message."""
    with source.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


class ServerFileSpace:
    """The space on a server."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list_files(self) -> list[StoredFile]:
        """Return the files by name."""
        from qonduit_api.v1.files_pb2 import ListFilesRequest  # noqa: PLC0415 - Keeps `import qonduit` light.

        found: list[StoredFile] = []
        token = ""
        while True:
            page = self._connection.call(lambda to: to.files.ListFiles, ListFilesRequest(page_token=token))
            found += [StoredFile(file.name, file.size_bytes, file.digest) for file in page.files]
            token = page.next_page_token
            if not token:
                return found

    def upload(self, source: Path, file: StoredFile) -> None:
        """Store a file."""
        from qonduit_api.v1.files_pb2 import UploadFileHeader, UploadFileRequest  # noqa: PLC0415 - As above.

        def requests() -> Iterator[UploadFileRequest]:
            header = UploadFileHeader(name=file.name, size_bytes=file.size_bytes, digest=file.digest)
            yield UploadFileRequest(header=header)
            for chunk in chunks(source):
                yield UploadFileRequest(chunk=chunk)

        self._connection.send(lambda to: to.files.UploadFile, requests)

    def download(self, name: str) -> Generator[StoredFile | bytes, None, None]:
        """Yield what the file is, then its bytes; goes on where it was when the server comes back."""
        from qonduit_api.v1.files_pb2 import DownloadFileRequest  # noqa: PLC0415 - As above.

        known: StoredFile | None = None
        offset = 0
        backoff = self._connection.backoff()
        while True:
            try:
                request = DownloadFileRequest(name=name, offset=offset)
                for part in self._connection.receive(lambda to: to.files.DownloadFile, request):
                    if part.WhichOneof("part") == "file":
                        now = StoredFile(part.file.name, part.file.size_bytes, part.file.digest)
                        if known is None:
                            yield now
                        elif known != now:
                            raise TransferDamagedError(f"{name} was replaced while it was downloaded; try again.")
                        known = now
                    else:
                        offset += len(part.chunk)
                        backoff = self._connection.backoff()
                        yield part.chunk
            except ServerUnavailableError:
                if not backoff.wait():
                    raise
            else:
                return

    def delete(self, name: str) -> None:
        """Delete a file."""
        from qonduit_api.v1.files_pb2 import DeleteFileRequest  # noqa: PLC0415 - As above.

        self._connection.call(lambda to: to.files.DeleteFile, DeleteFileRequest(name=name))
