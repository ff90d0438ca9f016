"""Reads what clients send: JSON objects into memory, uploads onto the disk; each within a limit that is said."""

from __future__ import annotations

import asyncio
import hashlib
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
from qonduit_service_kit.errors import ApiError
from starlette.datastructures import UploadFile
from starlette.requests import Request

from qonduit_gateway.api.uploads import CHUNK_LIMIT_BYTES, IDLE_LIMIT_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from typing import IO

    from starlette.datastructures import FormData
    from starlette.types import Message

_MIB = 1024**2
JSON_LIMIT_BYTES = 64 * _MIB
"""Of a whole JSON body, which has to be in memory: that client sends arguments as a string within it."""
_LARGE_ARGUMENTS = "Upload large data as a file, or run with Qonduit's own client, which sends arguments in pieces."
_FORM_EXTRA_BYTES = _MIB
"""Of the fields beside a file."""


class Sent:
    """A file of a form, on the disk as soon as it is more than 1 MiB."""

    def __init__(self, name: str, file: IO[bytes], size_bytes: int, digest: str) -> None:
        self.name = name
        self.file = file
        self.size_bytes = size_bytes
        self.digest = digest

    async def messages(self, header: Any) -> AsyncIterator[Any]:
        """Yield the messages of an upload by gRPC."""
        yield header
        self.file.seek(0)
        while chunk := await asyncio.to_thread(self.file.read, CHUNK_LIMIT_BYTES):
            yield chunk


async def json_object(request: Request) -> dict[str, Any]:
    """Return the body's JSON object; ApiError when it is none, or too large."""
    body = bytearray()
    async for piece in _bounded(request, JSON_LIMIT_BYTES, _LARGE_ARGUMENTS).stream():
        body += piece
    try:
        value = await asyncio.to_thread(_read, body) if len(body) > _MIB else _read(body)
    except (ValueError, RecursionError) as error:
        raise invalid(f"The body is no JSON text: {error}.") from error
    if not isinstance(value, dict):
        raise invalid(f"The body must be a JSON object, not a {type(value).__name__}.")
    return value


def _read(body: bytearray) -> Any:
    sent = body.decode()
    body.clear()  # What is large is not kept twice.
    return json.loads(sent)


@asynccontextmanager
async def form(request: Request, limit_bytes: int, instead: str) -> AsyncIterator[FormData]:
    """Read a form with at most one file of so many bytes; its file is gone afterwards.

    `instead` says what to do about a file that is too large.
    """
    async with _bounded(request, limit_bytes, instead, _FORM_EXTRA_BYTES).form(max_files=1, max_fields=100) as read:
        yield read


async def sent_file(fields: FormData, name: str) -> Sent | None:
    """Return a form's file, None when it has none of that name."""
    upload = fields.get(name)
    if not isinstance(upload, UploadFile):
        return None
    digest = await asyncio.to_thread(_digest, upload.file)
    return Sent((upload.filename or "").strip(), upload.file, upload.size or 0, digest)


def _digest(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    file.seek(0)
    while chunk := file.read(CHUNK_LIMIT_BYTES):
        digest.update(chunk)
    return digest.hexdigest()


def text(fields: Mapping[str, Any], name: str) -> str:
    """Return a text without the blanks around it; empty when there is none. ApiError when it is something else."""
    value = fields.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise invalid(f"{name} must be a string.")
    return value.strip()


def json_field(fields: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    """Return a value that travels as JSON text; ApiError when it is none of that kind."""
    sent = text(fields, name)
    if not sent:
        return default
    try:
        value = json.loads(sent)
    except (ValueError, RecursionError) as error:
        raise invalid(f"{name} is no JSON text: {error}.") from error
    if not isinstance(value, kind):
        raise invalid(f"{name} must be a JSON {'object' if kind is dict else kind.__name__}.")
    return value


def invalid(what: str) -> ApiError:
    """Return a refusal of a request that can't be meant."""
    return ApiError(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", what)


def _bounded(request: Request, limit_bytes: int, instead: str, extra_bytes: int = 0) -> Request:
    """Return a request whose body ends with an ApiError when it is too large, told before it is read if it can be."""
    told = request.headers.get("content-length", "")
    if told.isdigit() and int(told) > limit_bytes + extra_bytes:
        raise _too_large(limit_bytes, instead)
    seen = 0

    async def receive() -> Message:
        nonlocal seen
        try:
            async with asyncio.timeout(IDLE_LIMIT_S):
                message = await request.receive()
        except TimeoutError:
            what = f"Nothing came for {IDLE_LIMIT_S:g} s. Send it again."
            raise ApiError(grpc.StatusCode.DEADLINE_EXCEEDED, "UPLOAD_IDLE", what) from None
        seen += len(message.get("body", b""))
        if seen > limit_bytes + extra_bytes:
            raise _too_large(limit_bytes, instead)
        return message

    return Request(request.scope, receive)


def _too_large(limit_bytes: int, instead: str) -> ApiError:
    what = f"This is more than {limit_bytes / _MIB:g} MiB, the most that can be sent here at once. {instead}"
    return ApiError(grpc.StatusCode.RESOURCE_EXHAUSTED, "BODY_TOO_LARGE", what)
