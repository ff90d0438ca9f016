"""The user's files as a program sees them: through its agent, with no network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qonduit import exceptions as errors
from qonduit.file_space import CHUNK_BYTES, StoredFile, chunks
from qonduit.program.channel import AgentError, agent

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from pathlib import Path

_BY_KIND: Mapping[str, type[errors.ServerError]] = {
    "FILE_NOT_FOUND": errors.StoredFileNotFoundError,
    "NOT_FOUND": errors.StoredFileNotFoundError,
    "INVALID_FILE_NAME": errors.InvalidFileError,
    "INVALID_FILE_CONTENT": errors.InvalidFileError,
    "DIGEST_MISMATCH": errors.TransferDamagedError,
    "FILE_TOO_LARGE": errors.FileTooLargeError,
    "QUOTA_EXCEEDED": errors.LimitExceededError,
    "DISK_FULL": errors.DiskFullError,
}


class ProgramFileSpace:
    """The space of the user whose job this is."""

    def list_files(self) -> list[StoredFile]:
        """Return the files by name."""
        return [
            StoredFile(file["name"], int(file.get("size_bytes", 0)), file.get("digest", ""))
            for file in _ask("files_list")
        ]

    def upload(self, source: Path, file: StoredFile) -> None:
        """Store a file."""
        upload = _ask("file_begin", name=file.name, size_bytes=file.size_bytes, digest=file.digest)
        for chunk in chunks(source):
            _ask("file_chunk", upload=upload, data=chunk)
        _ask("file_commit", upload=upload)

    def download(self, name: str) -> Generator[StoredFile | bytes, None, None]:
        """Yield what the file is, then its bytes."""
        offset = 0
        known: StoredFile | None = None
        while known is None or offset < known.size_bytes:
            answer = _ask("file_get", name=name, offset=offset, length=CHUNK_BYTES)
            now = StoredFile(name, int(answer["size_bytes"]), answer["digest"])
            if known is None:
                yield now
            known = known or now
            if known != now or (not answer["data"] and offset < known.size_bytes):
                raise errors.TransferDamagedError(f"{name} was replaced while it was downloaded; try again.")
            offset += len(answer["data"])
            yield answer["data"]

    def delete(self, name: str) -> None:
        """Delete a file."""
        _ask("file_delete", name=name)


def _ask(operation: str, **fields: Any) -> Any:
    try:
        return agent().call(operation, **fields)
    except AgentError as error:
        kind = _BY_KIND.get(error.kind, errors.ServerFaultError)
        raise kind(error.text, reason=error.kind) from None
