"""Files. A user has one space, whatever function is named."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from qonduit_api.v1 import files_pb2
from starlette.responses import JSONResponse, StreamingResponse

from qonduit_gateway.rest import bodies

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.requests import Request
    from starlette.responses import Response

    from qonduit_gateway.api.files import FileService
    from qonduit_gateway.rest.programs import Programs

UPLOAD_LIMIT_BYTES = 2 * 1024**3
"""Of one file: that client has the whole of it in memory, and starts again from the beginning when it breaks off."""

_TOO_LARGE = "Upload it with Qonduit's own client, which sends it in pieces and goes on where it broke off."


class Files:
    """Moves files in and out of the caller's space."""

    def __init__(self, files: FileService, programs: Programs) -> None:
        self._files = files
        self._programs = programs

    async def list(self, request: Request) -> Response:
        """List the names of the caller's files."""
        await self._check_function(request)
        names: list[str] = []
        page = files_pb2.ListFilesRequest()
        while True:
            answer = await self._files.ListFiles(page, None)
            names += [file.name for file in answer.files]
            if not answer.next_page_token:
                return JSONResponse({"results": names})
            page.page_token = answer.next_page_token

    async def upload(self, request: Request) -> Response:
        """Store the form's file `file`, a tar or h5."""
        await self._check_function(request)
        async with bodies.form(request, UPLOAD_LIMIT_BYTES, _TOO_LARGE) as fields:
            sent = await bodies.sent_file(fields, "file")
            if sent is None:
                raise bodies.invalid("A file should be uploaded.")
            header = files_pb2.UploadFileHeader(name=sent.name, size_bytes=sent.size_bytes, digest=sent.digest)
            first = files_pb2.UploadFileRequest(header=header)
            answer = await self._files.UploadFile(sent.messages(first, files_pb2.UploadFileRequest), None)
        return JSONResponse({"message": answer.file.name})

    async def download(self, request: Request) -> Response:
        """Stream a file."""
        await self._check_function(request)
        pieces = self._files.DownloadFile(files_pb2.DownloadFileRequest(name=_name(request)), None)
        about = (await anext(pieces)).file
        # The client checks neither; whoever reads the headers can.
        headers = {
            "Content-Length": str(about.size_bytes),
            "Content-Disposition": f"attachment; filename*=UTF-8''{quote(about.name)}",
            "ETag": f'"{about.digest}"',
        }
        return StreamingResponse(_chunks(pieces), headers=headers, media_type="application/octet-stream")

    async def delete(self, request: Request) -> Response:
        """Delete a file."""
        await self._check_function(request)
        await self._files.DeleteFile(files_pb2.DeleteFileRequest(name=_name(request)), None)
        return JSONResponse({"message": "Requested file was deleted."})

    async def _check_function(self, request: Request) -> None:
        """Raise ApiError unless the function that is named is there."""
        asked = request.query_params
        if asked.get("function") or asked.get("provider"):
            await self._programs.find_for(asked.get("function", ""), asked.get("provider"))


async def _chunks(pieces: Any) -> AsyncGenerator[bytes, None]:
    async with aclosing(pieces):
        async for piece in pieces:
            yield piece.chunk


def _name(request: Request) -> str:
    name = request.query_params.get("file", "").strip()
    if not name:
        raise bodies.invalid("Name the file: ?file=data.tar")
    return name
