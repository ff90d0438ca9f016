"""What programs may ask of their agent about the result and the user's files."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from qonduit.program.channel import CHUNK_BYTES
from qonduit_service_kit.messages import INLINE_LIMIT_BYTES

from qonduit_worker.blob_names import is_digest
from qonduit_worker.program_channel import RequestError, bytes_field, count_field, text_field
from qonduit_worker.uploads import Uploads

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from qonduit_worker.blobs import JobBlobs
    from qonduit_worker.data_folder import DataFolder
    from qonduit_worker.program_channel import ProgramServer, ProgramSession
    from qonduit_worker.storage import StoredFile

_MOST_OFFSET: Final = 2**62
_NAME_LENGTH: Final = 4096
_MOST_LEFT: Final = 1000


@dataclass(frozen=True, slots=True)
class Result:
    """A result that is durable."""

    digest: str = ""
    size_bytes: int = 0
    small: bytes | None = None
    """Its bytes, if a message may carry them."""


class ResultOps:
    """result_begin, result_chunk, result_commit, result_failed, result_saved; the last commit counts."""

    def __init__(self, blobs: JobBlobs, parts: Path, *, most_bytes: int) -> None:
        self._blobs = blobs
        self._uploads = Uploads(parts, most_bytes=most_bytes)
        self.result = Result()
        self.error = ""
        """Why the last call of save_result failed; empty after one that succeeded."""

    def register(self, server: ProgramServer) -> None:
        """Answer them on a sandbox's channel."""
        server.register("result_begin", self._begin)
        server.register("result_chunk", self._chunk)
        server.register("result_commit", self._commit)
        server.register("result_failed", self._failed)
        server.register("result_saved", self._saved)

    async def keep(self, data: bytes) -> None:
        """Make bytes that came otherwise the result."""
        small = data if len(data) <= INLINE_LIMIT_BYTES else None
        self.result, self.error = Result(await self._blobs.put(data), len(data), small), ""

    async def _begin(self, _: ProgramSession, fields: Mapping[str, Any]) -> str:
        return self._uploads.begin(count_field(fields, "size_bytes", most=_MOST_OFFSET))

    async def _chunk(self, _: ProgramSession, fields: Mapping[str, Any]) -> None:
        self._uploads.find(str(fields.get("upload", ""))).add(bytes_field(fields, "data"))

    async def _commit(self, _: ProgramSession, fields: Mapping[str, Any]) -> None:
        upload = self._uploads.take(str(fields.get("upload", "")))
        try:
            digest = upload.complete(str(fields.get("digest", "")))
            size = upload.path.stat().st_size
            small = upload.path.read_bytes() if size <= INLINE_LIMIT_BYTES else None
            await self._blobs.put_file(digest, upload.path)
        finally:
            upload.discard()
        self.result, self.error = Result(digest, size, small), ""

    async def _failed(self, _: ProgramSession, fields: Mapping[str, Any]) -> None:
        self.error = str(fields.get("text", "")) or "it cannot be written as JSON"

    async def _saved(self, _: ProgramSession, fields: Mapping[str, Any]) -> bool:
        del fields
        return bool(self.result.digest or self.error)


class FileOps:
    """files_list, files_usage, files_left, file_get, file_begin, file_chunk, file_commit, file_delete, sync_files."""

    def __init__(self, data: DataFolder, parts: Path, *, most_bytes: int) -> None:
        self._data = data
        self._uploads = Uploads(parts, most_bytes=most_bytes)
        self._open: dict[str, tuple[Path, StoredFile]] = {}

    def register(self, server: ProgramServer) -> None:
        """Answer them on a sandbox's channel."""
        server.register("files_list", self._list)
        server.register("files_usage", self._usage)
        server.register("files_left", self._left)
        server.register("file_get", self._get)
        server.register("file_begin", self._begin)
        server.register("file_chunk", self._chunk)
        server.register("file_commit", self._commit)
        server.register("file_delete", self._delete)
        server.register("sync_files", self._sync)

    async def _list(self, _: ProgramSession, fields: Mapping[str, Any]) -> list[dict[str, Any]]:
        del fields
        files = await self._data.stored()
        return [asdict(file) for file in files]

    async def _usage(self, _: ProgramSession, fields: Mapping[str, Any]) -> dict[str, int]:
        del fields
        return asdict(await self._data.usage())

    async def _left(self, _: ProgramSession, fields: Mapping[str, Any]) -> list[str]:
        del fields
        # As they are printed: a name need not be text, and there may be more than fit in a frame.
        return [repr(name) for name in (await self._data.left())[:_MOST_LEFT]]

    async def _get(self, _: ProgramSession, fields: Mapping[str, Any]) -> dict[str, Any]:
        name = text_field(fields, "name", most=_NAME_LENGTH)
        # One transfer reads one version: the file is looked up anew at its beginning only.
        if fields.get("offset") == 0 or name not in self._open:
            self._open[name] = await self._data.open(name)
        path, file = self._open[name]
        data = _read(path, fields)
        if count_field(fields, "offset", most=_MOST_OFFSET) + len(data) >= file.size_bytes:
            self._open.pop(name, None)
        return {"data": data, "size_bytes": file.size_bytes, "digest": file.digest}

    async def _begin(self, _: ProgramSession, fields: Mapping[str, Any]) -> str:
        return self._uploads.begin(
            count_field(fields, "size_bytes", most=_MOST_OFFSET),
            digest=digest_field(fields),
            name=text_field(fields, "name", most=_NAME_LENGTH),
        )

    async def _chunk(self, _: ProgramSession, fields: Mapping[str, Any]) -> None:
        self._uploads.find(str(fields.get("upload", ""))).add(bytes_field(fields, "data"))

    async def _commit(self, _: ProgramSession, fields: Mapping[str, Any]) -> None:
        upload = self._uploads.take(str(fields.get("upload", "")))
        try:
            await self._data.store(upload.name, upload.complete(), upload.path)
        finally:
            upload.discard()

    async def _delete(self, _: ProgramSession, fields: Mapping[str, Any]) -> None:
        await self._data.delete(text_field(fields, "name", most=_NAME_LENGTH))

    async def _sync(self, _: ProgramSession, fields: Mapping[str, Any]) -> list[str]:
        del fields
        return [refused.text for refused in await self._data.send_back()]


def digest_field(fields: Mapping[str, Any]) -> str:
    """Return a sha256 in hexadecimal; raises RequestError for anything else."""
    digest = text_field(fields, "digest", most=64)
    if not is_digest(digest):
        raise RequestError("INVALID_REQUEST", "digest must be a sha256 in hexadecimal")
    return digest


def _read(path: Path, fields: Mapping[str, Any]) -> bytes:
    offset = count_field(fields, "offset", most=_MOST_OFFSET)
    length = count_field(fields, "length", most=4 * CHUNK_BYTES)
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(length)
