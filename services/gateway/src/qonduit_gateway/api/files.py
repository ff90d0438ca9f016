"""FileService: whose space is meant, and a thin translation to storage, which knows the rules for files."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qonduit_api.internal.v1 import storage_pb2
from qonduit_api.v1 import files_pb2, files_pb2_grpc
from qonduit_service_kit import spaces

from qonduit_gateway.api.callers import caller
from qonduit_gateway.api.provider_checks import invalid_name
from qonduit_gateway.api.uploads import chunks_of, header_of
from qonduit_gateway.database import audit_rows
from qonduit_gateway.database.audit_rows import AuditEntry
from qonduit_gateway.jobs.model import space_of
from qonduit_gateway.providers.access import Action, Place

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from qonduit_gateway.api.function_catalog import FunctionCatalog
    from qonduit_gateway.database.engine import Database
    from qonduit_gateway.storage_client import StorageClient

_Request = (
    files_pb2.UploadFileHeader
    | files_pb2.StatUploadRequest
    | files_pb2.DownloadFileRequest
    | files_pb2.ListFilesRequest
    | files_pb2.StatFileRequest
    | files_pb2.DeleteFileRequest
    | files_pb2.GetFileUsageRequest
)
"""All of them name a space in the same way."""


@dataclass(frozen=True, slots=True)
class _Space:
    """The space that a request means, and who asks."""

    user: str
    name: str
    limit_bytes: int
    of: Place | None = None
    """Whose it is, if it is a provider's own."""


class FileService(files_pb2_grpc.FileServiceServicer):  # type: ignore[misc,unused-ignore]
    """Moves files in and out of the caller's spaces, and of those of providers."""

    def __init__(
        self,
        storage: StorageClient,
        catalog: FunctionCatalog,
        database: Database,
        *,
        default_limit_bytes: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._storage = storage
        self._catalog = catalog
        self._database = database
        self._default_limit_bytes = default_limit_bytes
        self._clock = clock

    async def UploadFile(  # noqa: N802 - named by the API.
        self, request_iterator: AsyncIterator[Any], context: Any
    ) -> files_pb2.UploadFileResponse:
        """Pass a file on to storage as fast as storage takes it."""
        del context
        header = await header_of(request_iterator)
        space = await self._space(header)
        await self._audit(space, "file.upload", header.name)
        put = storage_pb2.PutFileHeader(
            space=space.name,
            name=header.name,
            size_bytes=header.size_bytes,
            digest=header.digest,
            offset=header.offset,
        )
        upload = self._storage.open_file(space.user, put, limit_bytes=space.limit_bytes)
        try:
            if await upload.send(b""):
                async for chunk in chunks_of(request_iterator, header.size_bytes - header.offset):
                    if not await upload.send(chunk):
                        break
            answer = await upload.finish()
        finally:
            upload.abandon()
        return files_pb2.UploadFileResponse(file=_file(answer.file))

    async def StatUpload(  # noqa: N802
        self, request: files_pb2.StatUploadRequest, context: Any
    ) -> files_pb2.StatUploadResponse:
        """Tell how much of an upload that broke off is kept."""
        del context
        space = await self._space(request)
        asked = storage_pb2.StatUploadRequest(
            space=space.name, name=request.name, size_bytes=request.size_bytes, digest=request.digest
        )
        answer = await self._call(space, "StatUpload", asked)
        return files_pb2.StatUploadResponse(received_bytes=answer.received_bytes)

    async def DownloadFile(  # noqa: N802
        self, request: files_pb2.DownloadFileRequest, context: Any
    ) -> AsyncIterator[Any]:
        """Stream a file as storage gives it: what it is, then its chunks."""
        del context
        space = await self._space(request)
        get = storage_pb2.GetFileRequest(space=space.name, name=request.name, offset=request.offset)
        async for answer in self._storage.file(space.user, get):
            yield answer if isinstance(answer, memoryview) else files_pb2.DownloadFileResponse(file=_file(answer.file))

    async def ListFiles(  # noqa: N802
        self, request: files_pb2.ListFilesRequest, context: Any
    ) -> files_pb2.ListFilesResponse:
        """List the files of a space."""
        del context
        space = await self._space(request)
        asked = storage_pb2.ListSpaceRequest(
            space=space.name, page_size=request.page_size, page_token=request.page_token
        )
        answer = await self._call(space, "ListSpace", asked)
        return files_pb2.ListFilesResponse(
            files=[_file(file) for file in answer.files], next_page_token=answer.next_page_token
        )

    async def StatFile(  # noqa: N802
        self, request: files_pb2.StatFileRequest, context: Any
    ) -> files_pb2.StatFileResponse:
        """Tell about one file."""
        del context
        space = await self._space(request)
        stat = storage_pb2.StatSpaceFileRequest(space=space.name, name=request.name)
        answer = await self._call(space, "StatSpaceFile", stat)
        return files_pb2.StatFileResponse(file=_file(answer.file))

    async def DeleteFile(  # noqa: N802
        self, request: files_pb2.DeleteFileRequest, context: Any
    ) -> files_pb2.DeleteFileResponse:
        """Delete a file."""
        del context
        space = await self._space(request)
        await self._audit(space, "file.delete", request.name)
        delete = storage_pb2.DeleteSpaceFileRequest(space=space.name, name=request.name)
        await self._call(space, "DeleteSpaceFile", delete)
        return files_pb2.DeleteFileResponse()

    async def GetFileUsage(  # noqa: N802
        self, request: files_pb2.GetFileUsageRequest, context: Any
    ) -> files_pb2.GetFileUsageResponse:
        """Tell how full a space is."""
        del context
        space = await self._space(request)
        answer = await self._call(space, "GetSpaceUsage", storage_pb2.GetSpaceUsageRequest(space=space.name))
        return files_pb2.GetFileUsageResponse(
            file_count=answer.file_count, used_bytes=answer.used_bytes, limit_bytes=answer.limit_bytes
        )

    async def _space(self, request: _Request) -> _Space:
        """Return the space that is meant; ApiError unless the caller may use it."""
        user = caller()
        limit_bytes = user.limit.file_bytes_over(self._default_limit_bytes)
        if "/" not in request.function:
            if request.of_provider:
                raise invalid_name(request.function, "'provider/title'")
            return _Space(user.name, spaces.of_user(user.name), limit_bytes)
        action = Action.USE_FILES if request.of_provider else Action.SEE
        name = (await self._catalog.find(user.name, request.function, action=action)).version.name
        if request.of_provider:
            space = spaces.of_provider(name.provider, name.title)
            return _Space(user.name, space, self._default_limit_bytes, name.place)
        return _Space(user.name, space_of(user.name, name.provider, name.title), limit_bytes)

    async def _audit(self, space: _Space, action: str, file: str) -> None:
        """Note what is about to be done to a provider's file: storage shares no transaction with us."""
        if space.of is not None:
            entry = AuditEntry(self._clock(), space.user, action, space.of, file[:255])
            await self._database.write(lambda connection: audit_rows.add(connection, entry))

    async def _call(self, space: _Space, name: str, request: Any) -> Any:
        return await self._storage.space_call(space.user, name, request, limit_bytes=space.limit_bytes)


def _file(stored: storage_pb2.SpaceFile) -> files_pb2.File:
    return files_pb2.File(
        name=stored.name, size_bytes=stored.size_bytes, digest=stored.digest, create_time=stored.create_time
    )
