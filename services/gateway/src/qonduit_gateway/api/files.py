"""FileService: a thin translation to storage, which knows the rules for files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qonduit_api.internal.v1 import storage_pb2
from qonduit_api.v1 import files_pb2, files_pb2_grpc

from qonduit_gateway.api.callers import caller
from qonduit_gateway.api.uploads import chunks_of, header_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from qonduit_gateway.database.user_rows import User
    from qonduit_gateway.storage_client import StorageClient


class FileService(files_pb2_grpc.FileServiceServicer):  # type: ignore[misc,unused-ignore]
    """Moves files in and out of the caller's space."""

    def __init__(self, storage: StorageClient, *, default_limit_bytes: int) -> None:
        self._storage = storage
        self._default_limit_bytes = default_limit_bytes

    async def UploadFile(  # noqa: N802 - named by the API.
        self, request_iterator: AsyncIterator[Any], context: Any
    ) -> files_pb2.UploadFileResponse:
        """Pass a file on to storage as fast as storage takes it."""
        del context
        header = await header_of(request_iterator)
        user = caller()
        put = storage_pb2.PutFileHeader(
            space=_space(user.name),
            name=header.name,
            size_bytes=header.size_bytes,
            digest=header.digest,
            offset=header.offset,
        )
        upload = self._storage.open_file(user.name, put, limit_bytes=self._limit_bytes(user))
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
        user = caller()
        asked = storage_pb2.StatUploadRequest(
            space=_space(user.name), name=request.name, size_bytes=request.size_bytes, digest=request.digest
        )
        answer = await self._storage.space_call(user.name, "StatUpload", asked, limit_bytes=self._limit_bytes(user))
        return files_pb2.StatUploadResponse(received_bytes=answer.received_bytes)

    async def DownloadFile(  # noqa: N802
        self, request: files_pb2.DownloadFileRequest, context: Any
    ) -> AsyncIterator[files_pb2.DownloadFileResponse]:
        """Stream a file as storage gives it."""
        del context
        user = caller().name
        get = storage_pb2.GetFileRequest(space=_space(user), name=request.name, offset=request.offset)
        async for answer in self._storage.file(user, get):
            if answer.WhichOneof("part") == "file":
                yield files_pb2.DownloadFileResponse(file=_file(answer.file))
            else:
                yield files_pb2.DownloadFileResponse(chunk=answer.chunk)

    async def ListFiles(  # noqa: N802
        self, request: files_pb2.ListFilesRequest, context: Any
    ) -> files_pb2.ListFilesResponse:
        """List the caller's files."""
        del context
        user = caller().name
        answer = await self._storage.space_call(
            user,
            "ListSpace",
            storage_pb2.ListSpaceRequest(
                space=_space(user), page_size=request.page_size, page_token=request.page_token
            ),
        )
        return files_pb2.ListFilesResponse(
            files=[_file(file) for file in answer.files], next_page_token=answer.next_page_token
        )

    async def StatFile(  # noqa: N802
        self, request: files_pb2.StatFileRequest, context: Any
    ) -> files_pb2.StatFileResponse:
        """Tell about one file."""
        del context
        user = caller().name
        stat = storage_pb2.StatSpaceFileRequest(space=_space(user), name=request.name)
        answer = await self._storage.space_call(user, "StatSpaceFile", stat)
        return files_pb2.StatFileResponse(file=_file(answer.file))

    async def DeleteFile(  # noqa: N802
        self, request: files_pb2.DeleteFileRequest, context: Any
    ) -> files_pb2.DeleteFileResponse:
        """Delete a file."""
        del context
        user = caller().name
        delete = storage_pb2.DeleteSpaceFileRequest(space=_space(user), name=request.name)
        await self._storage.space_call(user, "DeleteSpaceFile", delete)
        return files_pb2.DeleteFileResponse()

    async def GetFileUsage(  # noqa: N802
        self, request: files_pb2.GetFileUsageRequest, context: Any
    ) -> files_pb2.GetFileUsageResponse:
        """Tell how full the caller's space is."""
        del request, context
        user = caller()
        asked = storage_pb2.GetSpaceUsageRequest(space=_space(user.name))
        answer = await self._storage.space_call(user.name, "GetSpaceUsage", asked, limit_bytes=self._limit_bytes(user))
        return files_pb2.GetFileUsageResponse(
            file_count=answer.file_count, used_bytes=answer.used_bytes, limit_bytes=answer.limit_bytes
        )

    def _limit_bytes(self, user: User) -> int:
        return user.limit.file_bytes_over(self._default_limit_bytes)


def _space(user: str) -> str:
    return f"users/{user}"


def _file(stored: storage_pb2.SpaceFile) -> files_pb2.File:
    return files_pb2.File(
        name=stored.name, size_bytes=stored.size_bytes, digest=stored.digest, create_time=stored.create_time
    )
