"""The file service of the gateway in this process."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import grpc
from fake_refusals import fail
from google.rpc import code_pb2  # type: ignore[import-untyped]
from qonduit_api.v1 import files_pb2, files_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Iterator


class FakeFiles(files_pb2_grpc.FileServiceServicer):
    """Keeps each space's files in a dict by their names; breaks off once after `cut_after` bytes."""

    def __init__(self, content: dict[str, bytes]) -> None:
        self.content = content
        self.spaces: dict[tuple[str, bool], dict[str, bytes]] = {("", False): content}
        self.cut_after: int | None = None
        self.partial: dict[str, bytes] = {}
        self.offsets: list[int] = []
        self.limit_bytes = 0
        self.refusal = ""

    def _space(self, request: Any) -> dict[str, bytes]:
        return self.spaces.setdefault((request.function, request.of_provider), {})

    def UploadFile(  # noqa: N802
        self, request_iterator: Iterator[files_pb2.UploadFileRequest], context: grpc.ServicerContext
    ) -> files_pb2.UploadFileResponse:
        header = next(request_iterator).header
        if self.limit_bytes and header.size_bytes > self.limit_bytes:
            fail(context, code_pb2.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED", f"There is no room for {header.name!r}.")
        if self.refusal:
            fail(context, code_pb2.INVALID_ARGUMENT, "INVALID_FILE_CONTENT", self.refusal, content=_cut(self.refusal))
        self.offsets.append(header.offset)
        content = bytearray(self.partial.pop(header.name, b"")[: header.offset])
        for part in request_iterator:
            content += part.chunk
            if self.cut_after is not None and len(content) >= self.cut_after:
                self.partial[header.name] = bytes(content)
                self.cut_after = None
                context.abort(grpc.StatusCode.UNAVAILABLE, "going down")
        self._space(header)[header.name] = bytes(content)
        return files_pb2.UploadFileResponse(file=_file(header.name, bytes(content)))

    def DownloadFile(  # noqa: N802
        self, request: files_pb2.DownloadFileRequest, context: grpc.ServicerContext
    ) -> Iterator[files_pb2.DownloadFileResponse]:
        if request.name not in self._space(request):
            fail(context, code_pb2.NOT_FOUND, "FILE_NOT_FOUND", f"There is no file {request.name!r}.")
        content = self._space(request)[request.name]
        yield files_pb2.DownloadFileResponse(file=_file(request.name, content))
        for start in range(request.offset, len(content), 1000):
            if self.cut_after is not None and start >= self.cut_after:
                self.cut_after = None
                context.abort(grpc.StatusCode.UNAVAILABLE, "going down")
            yield files_pb2.DownloadFileResponse(chunk=content[start : start + 1000])

    def StatUpload(  # noqa: N802
        self, request: files_pb2.StatUploadRequest, _context: grpc.ServicerContext
    ) -> files_pb2.StatUploadResponse:
        return files_pb2.StatUploadResponse(received_bytes=len(self.partial.get(request.name, b"")))

    def GetFileUsage(  # noqa: N802
        self, request: files_pb2.GetFileUsageRequest, _context: grpc.ServicerContext
    ) -> files_pb2.GetFileUsageResponse:
        space = self._space(request)
        used = sum(len(content) for content in space.values())
        return files_pb2.GetFileUsageResponse(file_count=len(space), used_bytes=used, limit_bytes=self.limit_bytes)

    def ListFiles(  # noqa: N802
        self, request: files_pb2.ListFilesRequest, _context: grpc.ServicerContext
    ) -> files_pb2.ListFilesResponse:
        return files_pb2.ListFilesResponse(files=[_file(*each) for each in sorted(self._space(request).items())])

    def DeleteFile(  # noqa: N802
        self, request: files_pb2.DeleteFileRequest, context: grpc.ServicerContext
    ) -> files_pb2.DeleteFileResponse:
        if self._space(request).pop(request.name, None) is None:
            fail(context, code_pb2.NOT_FOUND, "FILE_NOT_FOUND", f"There is no file {request.name!r}.")
        return files_pb2.DeleteFileResponse()


def _cut(text: str) -> str:
    """Return a text as the details of an answer hold it."""
    return text if len(text) <= 256 else text[:253] + "..."


def _file(name: str, content: bytes) -> files_pb2.File:
    return files_pb2.File(name=name, size_bytes=len(content), digest=hashlib.sha256(content).hexdigest())
