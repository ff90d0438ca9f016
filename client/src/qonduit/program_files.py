"""The user's files as a program sees them: through its agent, with no network."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from qonduit import exceptions as errors
from qonduit.file_space import CHUNK_BYTES, SpaceUsage, StoredFile, chunks
from qonduit.program.channel import AgentError, agent
from qonduit.progress import told_to_nobody

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping
    from pathlib import Path

_BY_KIND: Mapping[str, type[errors.ServerError]] = {
    "FILE_NOT_FOUND": errors.StoredFileNotFoundError,
    "NOT_FOUND": errors.StoredFileNotFoundError,
    "INVALID_FILE_NAME": errors.InvalidFileError,
    "INVALID_FILE_CONTENT": errors.InvalidFileError,
    "DIGEST_MISMATCH": errors.TransferDamagedError,
    "FILE_TOO_LARGE": errors.FileTooLargeError,
    "QUOTA_EXCEEDED": errors.QuotaExceededError,
    "DISK_FULL": errors.DiskFullError,
}


class ProgramFileSpace:
    """The space of the user whose job this is."""

    def list_files(self) -> list[StoredFile]:
        """Return the files by name."""
        return [
            StoredFile(file["name"], file["size_bytes"], file["digest"], datetime.fromtimestamp(file["stored_at"], UTC))
            for file in _ask("files_list")
        ]

    def usage(self) -> SpaceUsage:
        """Return how full the space is."""
        told = _ask("files_usage")
        return SpaceUsage(told["file_count"], told["used_bytes"], told["limit_bytes"])

    def upload(self, source: Path, file: StoredFile, tell: Callable[[int], None] = told_to_nobody) -> None:
        """Store a file."""
        upload = _ask("file_begin", name=file.name, size_bytes=file.size_bytes, digest=file.digest)
        sent = 0
        for chunk in chunks(source):
            _ask("file_chunk", upload=upload, data=chunk)
            sent += len(chunk)
            tell(sent)
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
