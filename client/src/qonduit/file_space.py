"""A user's files: one flat space, the same from a notebook and from inside a program.

Where the bytes go is a `FileSpace`; this module holds its contract, what is the same for every kind of
it, and the kind that talks to a server. `qonduit.program_files` holds the kind for programs.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Protocol

from qonduit.exceptions import InvalidFileError, ServerUnavailableError, TransferDamagedError
from qonduit.progress import told_to_nobody

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from qonduit.connection import Connection

CHUNK_BYTES: Final = 1024**2
_GO_ON_FROM_BYTES: Final = 8 * 1024**2
"""What is smaller is sent again as quickly as it is asked how much of it arrived."""
_RENAMED: Final = {".tar": ".tar", ".tar.gz": ".tar", ".tgz": ".tar", ".h5": ".h5", ".hdf5": ".h5"}
"""Endings, in small letters, of what may be stored as it is under a name with another ending."""
_MOST_NAME_BYTES: Final = 255
"""Of a stored file, and of one on nearly every file system."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file in the space."""

    name: str
    size_bytes: int
    digest: str
    """sha256, in hexadecimal."""
    stored: datetime | None = field(default=None, compare=False)
    """When it was stored; None for a local one."""


@dataclass(frozen=True, slots=True)
class SpaceUsage:
    """How full a space is."""

    file_count: int
    used_bytes: int
    limit_bytes: int
    """Most that all files may have together; 0 for no limit."""


class FileSpace(Protocol):
    """Where a user's files are."""

    def list_files(self) -> list[StoredFile]:
        """Return the files by name."""

    def usage(self) -> SpaceUsage:
        """Return how full the space is."""

    def upload(self, source: Path, file: StoredFile, tell: Callable[[int], None] = told_to_nobody) -> None:
        """Store a file; readers see the old one or the new one, never a part. `tell` takes how many bytes are sent.

        Raises:
            InvalidFileError: Name or content is not allowed.
            QuotaExceededError: There is no room for it.
        """

    def download(self, name: str) -> Generator[StoredFile | bytes, None, None]:
        """Yield what the file is, then its bytes; StoredFileNotFoundError if there is none."""

    def delete(self, name: str) -> None:
        """Delete a file; StoredFileNotFoundError if there is none."""


def describe_local(path: Path, name: str | None) -> StoredFile:
    """Return what a local file will be called and what is in it; FileNotFoundError if there is none.

    Raises:
        InvalidFileError: It is a folder, a pipe or a device, or its name is neither a tar's nor an h5 file's.
    """
    if path.is_dir():
        raise InvalidFileError(
            f"{path} is a folder. Pack it first, as in `tar -cf {path.name}.tar {path.name}`.",
            reason="INVALID_FILE_CONTENT",
        )
    if path.exists() and not path.is_file():
        # Opening a pipe would wait for whoever writes to it.
        raise InvalidFileError(
            f"{path} is no regular file. Write what comes from it into a file first.", reason="INVALID_FILE_CONTENT"
        )
    stored_name = name or path.name
    if not stored_name.endswith((".tar", ".h5")):
        raise InvalidFileError(
            f"{stored_name!r} is neither a .tar nor an .h5 file, and only those can be stored. "
            f"{_advice(path, stored_name)}",
            reason="INVALID_FILE_NAME",
        )
    with path.open("rb") as source:
        digest = hashlib.file_digest(source, "sha256").hexdigest()
        return StoredFile(stored_name, os.fstat(source.fileno()).st_size, digest)


def _advice(path: Path, name: str) -> str:
    """Return how to store a file whose name is not allowed: under another one, or within a tar."""
    for ending, allowed in _RENAMED.items():
        if name.lower().endswith(ending):
            other = name[: -len(ending)] + allowed
            return f"Give it another name: name={other!r} in Python, or `qonduit files put {path} --name {other}`."
    return f"Pack it into a tar, as in `tar -cf {Path(name).stem.removesuffix('.tar')}.tar {path.name}`."


def _shown_to_nobody(file: StoredFile) -> contextlib.AbstractContextManager[Callable[[int], None]]:
    del file
    return contextlib.nullcontext(told_to_nobody)


def save(
    parts: Iterator[StoredFile | bytes],
    folder: Path,
    name: str | None,
    *,
    overwrite: bool = False,
    show: Callable[[StoredFile], contextlib.AbstractContextManager[Callable[[int], None]]] = _shown_to_nobody,
) -> Path:
    """Write a download next to where it goes, check it, and move it there in one step.

    Without a name it is called `downloaded_<digest>_<its name>`, so that nothing else is ever overwritten; its end is
    left out where that is too long. An equal file that is there already is left as it is.

    Raises:
        FileExistsError: Another file of that name is there.
        NotADirectoryError: What it is to go into is no folder.
        TransferDamagedError: The bytes aren't those that were stored.
    """
    file = next(parts)
    if not isinstance(file, StoredFile):
        raise TransferDamagedError(f"The download did not say what it is, but began with {file[:16]!r}.")
    target = folder / (name or _default_name(file))
    if not overwrite and os.path.lexists(target):
        if _holds(target, file):
            return target
        raise _taken(target)
    _make_folder(target.parent)
    handle, temporary = tempfile.mkstemp(prefix=".download.", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as output, show(file) as tell:
            digest = _write(parts, output, tell)
        if digest != file.digest:
            raise TransferDamagedError(f"{file.name} arrived damaged; nothing was written to {target}.")
        Path(temporary).chmod(0o666 & ~_umask())
        _move(Path(temporary), target, overwrite=overwrite)
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
    return target


def _write(parts: Iterator[StoredFile | bytes], output: IO[bytes], tell: Callable[[int], None]) -> str:
    """Write what arrives, and return its digest."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, bytes):
            digest.update(part)
            output.write(part)
            tell(output.tell())
    return digest.hexdigest()


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, "is no folder, and a download goes into one", str(folder)) from error


def _default_name(file: StoredFile) -> str:
    whole = Path(f"downloaded_{file.digest[:8]}_{file.name}")
    room = _MOST_NAME_BYTES - len(whole.suffix.encode())
    # A character of which only a part has room is left out as a whole.
    return whole.stem.encode()[:room].decode(errors="ignore") + whole.suffix


def _move(source: Path, target: Path, *, overwrite: bool) -> None:
    if not overwrite:
        try:
            # Unlike a rename, it fails where somebody made a file of that name meanwhile.
            os.link(source, target)
        except FileExistsError:
            raise _taken(target) from None
        except OSError:  # A file system without links.
            if os.path.lexists(target):
                raise _taken(target) from None
        else:
            return
    source.replace(target)


def _taken(target: Path) -> FileExistsError:
    return FileExistsError(
        errno.EEXIST, "is there already, with other content; overwrite=True replaces it", str(target)
    )


def _holds(path: Path, file: StoredFile) -> bool:
    if not path.is_file() or path.stat().st_size != file.size_bytes:
        return False
    with path.open("rb") as there:
        return hashlib.file_digest(there, "sha256").hexdigest() == file.digest


def chunks(source: Path, offset: int = 0) -> Iterator[bytes]:
    """Yield a file's bytes from an offset in pieces that fit into a message."""
    with source.open("rb") as file:
        file.seek(offset)
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


class ServerFileSpace:
    """A space on a server: the user's own, or for a provider's function the user's or the provider's."""

    def __init__(self, connection: Connection, function: str = "", *, of_provider: bool = False) -> None:
        self._connection = connection
        self._function = function
        self._of_provider = of_provider

    def list_files(self) -> list[StoredFile]:
        """Return the files by name."""
        from qonduit_api.v1.files_pb2 import ListFilesRequest  # noqa: PLC0415 - Keeps `import qonduit` light.

        found: list[StoredFile] = []
        token = ""
        while True:
            page = self._connection.call(
                lambda to: to.files.ListFiles,
                ListFilesRequest(page_token=token, function=self._function, of_provider=self._of_provider),
            )
            found += [
                StoredFile(file.name, file.size_bytes, file.digest, file.create_time.ToDatetime(UTC))
                for file in page.files
            ]
            token = page.next_page_token
            if not token:
                return found

    def usage(self) -> SpaceUsage:
        """Return how full the space is."""
        from qonduit_api.v1.files_pb2 import GetFileUsageRequest  # noqa: PLC0415 - As above.

        told = self._connection.call(
            lambda to: to.files.GetFileUsage,
            GetFileUsageRequest(function=self._function, of_provider=self._of_provider),
        )
        return SpaceUsage(told.file_count, told.used_bytes, told.limit_bytes)

    def upload(self, source: Path, file: StoredFile, tell: Callable[[int], None] = told_to_nobody) -> None:
        """Store a file; one that broke off, in this process or in another one, goes on where it stopped."""
        from qonduit_api.v1.files_pb2 import UploadFileHeader, UploadFileRequest  # noqa: PLC0415 - As above.

        def stream(offset: int) -> Iterator[UploadFileRequest]:
            header = UploadFileHeader(
                name=file.name,
                size_bytes=file.size_bytes,
                digest=file.digest,
                offset=offset,
                function=self._function,
                of_provider=self._of_provider,
            )
            yield UploadFileRequest(header=header)
            for chunk in chunks(source, offset):
                yield UploadFileRequest(chunk=chunk)
                offset += len(chunk)
                tell(offset)

        offsets: list[int] = []

        def requests() -> Iterator[UploadFileRequest]:
            # Called anew for each try, so that each goes on where the last one stopped.
            offsets.append(self._received_bytes(file))
            return stream(offsets[-1])

        try:
            self._connection.send(lambda to: to.files.UploadFile, requests)
        except (TransferDamagedError, InvalidFileError):
            if not any(offsets):
                raise
            # Maybe for what was there from before: it is gone now, and all of it is sent.
            self._connection.send(lambda to: to.files.UploadFile, lambda: stream(0))

    def _received_bytes(self, file: StoredFile) -> int:
        from qonduit_api.v1.files_pb2 import StatUploadRequest  # noqa: PLC0415 - As above.

        if file.size_bytes < _GO_ON_FROM_BYTES:
            return 0
        request = StatUploadRequest(
            name=file.name,
            size_bytes=file.size_bytes,
            digest=file.digest,
            function=self._function,
            of_provider=self._of_provider,
        )
        return self._connection.call(lambda to: to.files.StatUpload, request).received_bytes

    def download(self, name: str) -> Generator[StoredFile | bytes, None, None]:
        """Yield what the file is, then its bytes; goes on where it was when the server comes back."""
        from qonduit_api.v1.files_pb2 import DownloadFileRequest  # noqa: PLC0415 - As above.

        known: StoredFile | None = None
        offset = 0
        backoff = self._connection.backoff()
        while True:
            try:
                request = DownloadFileRequest(
                    name=name, offset=offset, function=self._function, of_provider=self._of_provider
                )
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

        self._connection.call(
            lambda to: to.files.DeleteFile,
            DeleteFileRequest(name=name, function=self._function, of_provider=self._of_provider),
        )
