"""Files: a user's own, those a user has for a function of a provider, and those a provider has for it."""

from __future__ import annotations

from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from qonduit_api.v1 import files_pb2
from qonduit_service_kit.errors import ApiError
from starlette.responses import JSONResponse, StreamingResponse

from qonduit_gateway.rest import bodies, names

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from starlette.requests import Request
    from starlette.responses import Response

    from qonduit_gateway.api.files import FileService
    from qonduit_gateway.rest.programs import Programs
    from qonduit_gateway.rest.providers import Providers

UPLOAD_LIMIT_BYTES = 2 * 1024**3
"""Of one file: that client has the whole of it in memory, and starts again from the beginning when it breaks off."""

_TYPES = (".tar", ".h5")
_TOO_LARGE = "Upload it with Qonduit's own client, which sends it in pieces and goes on where it broke off."


class Spaces:
    """Tells which space a request means, as the API names it."""

    def __init__(self, programs: Programs, people: Providers) -> None:
        self._programs = programs
        self._people = people

    @asynccontextmanager
    async def of_user(self, request: Request) -> AsyncIterator[dict[str, Any]]:
        """Mean the caller's own: one for all own functions, and one for each of providers'; ApiError for none such."""
        name = names.name_asked_for(request)
        if name:
            await self._programs.find(name)
        yield {"function": name if "/" in name else ""}

    @asynccontextmanager
    async def of_provider(self, request: Request) -> AsyncIterator[dict[str, Any]]:
        """Mean the one that a provider has for a function, for the provider's people alone."""
        name = names.of_provider_asked_for(request)
        async with self._people.people(name):
            yield {"function": name, "of_provider": True}


class Files:
    """Moves files in and out of the space that a request means."""

    def __init__(
        self, files: FileService, space: Callable[[Request], AbstractAsyncContextManager[dict[str, Any]]]
    ) -> None:
        self._files = files
        self._space = space

    async def list(self, request: Request) -> Response:
        """List the names of files."""
        found: list[str] = []
        async with self._space(request) as space:
            page = files_pb2.ListFilesRequest(**space)
            while True:
                answer = await self._files.ListFiles(page, None)
                found += [file.name for file in answer.files]
                if not answer.next_page_token:
                    return JSONResponse({"results": found})
                page.page_token = answer.next_page_token

    async def upload(self, request: Request) -> Response:
        """Store the form's file `file`, a tar or h5."""
        async with self._space(request) as space, bodies.form(request, UPLOAD_LIMIT_BYTES, _TOO_LARGE) as fields:
            sent = await bodies.sent_file(fields, "file")
            if sent is None:
                raise bodies.invalid("A file should be uploaded.")
            header = files_pb2.UploadFileHeader(name=sent.name, size_bytes=sent.size_bytes, digest=sent.digest, **space)
            first = files_pb2.UploadFileRequest(header=header)
            try:
                answer = await self._files.UploadFile(sent.messages(first), None)
            except ApiError as error:
                if error.reason == "INVALID_FILE_CONTENT" or not sent.name.endswith(_TYPES):
                    text = f"Uploaded file is not a valid type. {error.text}"
                    raise ApiError(error.code, error.reason, text, violations=error.violations) from error
                raise
        return JSONResponse({"message": answer.file.name})

    async def download(self, request: Request) -> Response:
        """Stream a file."""
        async with self._space(request) as space:
            pieces = self._files.DownloadFile(files_pb2.DownloadFileRequest(name=_name(request), **space), None)
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
        async with self._space(request) as space:
            await self._files.DeleteFile(files_pb2.DeleteFileRequest(name=_name(request), **space), None)
        return JSONResponse({"message": "Requested file was deleted."})


async def _chunks(pieces: Any) -> AsyncGenerator[memoryview, None]:
    async with aclosing(pieces):
        async for piece in pieces:
            yield piece


def _name(request: Request) -> str:
    name = request.query_params.get("file", "").strip()
    if not name:
        raise bodies.invalid("Name the file: ?file=data.tar")
    return name
