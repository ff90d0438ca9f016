"""Streams as JSON: texts of any length within an object, without being in memory as a whole."""

from __future__ import annotations

import codecs
import json
import re
from contextlib import aclosing
from typing import TYPE_CHECKING

from starlette.responses import Response, StreamingResponse

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping
    from typing import Any

_PREFIX = re.compile(r"^\[(?:PUBLIC|PRIVATE)\] ", re.IGNORECASE)
_PREFIX_CHARS = len("[PRIVATE] ")
_JSON = "application/json"
_SHORT_BYTES = 64 * 1024


async def first_of(chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None] | None:
    """Return what streams the same chunks, once the first is there; None for an empty stream.

    What refuses does so here, while the answer can still say it.
    """
    async for chunk in chunks:
        if chunk:
            return _again(chunk, chunks)
    return None


async def _again(first: bytes, others: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(others):
        yield first
        async for chunk in others:
            yield chunk


async def enveloped(members: Mapping[str, Any], name: str, content: AsyncGenerator[bytes, None]) -> Response:
    """Answer with an object in which one member is the text that comes in chunks of UTF-8; at once if it is short."""
    pieces = _object(members, name, content)
    begun = bytearray()
    async for piece in pieces:
        begun += piece
        if len(begun) > _SHORT_BYTES:
            return StreamingResponse(_again(bytes(begun), pieces), media_type=_JSON)
    return Response(bytes(begun), media_type=_JSON)


async def _object(
    members: Mapping[str, Any], name: str, content: AsyncGenerator[bytes, None]
) -> AsyncGenerator[bytes, None]:
    before = json.dumps(dict(members))[:-1] + (", " if members else "")
    yield f'{before}{json.dumps(name)}: "'.encode()
    async with aclosing(content):
        async for piece in texts(content):
            yield json.dumps(piece)[1:-1].encode()
    yield b'"}'


async def texts(chunks: AsyncIterator[bytes]) -> AsyncGenerator[str, None]:
    """Decode chunks, which may end within a character; what is no UTF-8 is replaced."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    async for chunk in chunks:
        yield decoder.decode(chunk)
    yield decoder.decode(b"", final=True)


async def without_prefixes(chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Take "[PUBLIC] " and "[PRIVATE] " off the beginnings of lines: of an own function its author sees every line."""
    held, line_begins = "", True
    async with aclosing(chunks):
        async for piece in texts(chunks):
            lines = (held + piece).splitlines(keepends=True)
            held = ""
            # A line that has only begun may yet turn out to begin with a prefix.
            if (
                lines
                and not lines[-1].endswith("\n")
                and len(lines[-1]) < _PREFIX_CHARS
                and _may_begin(lines, line_begins)
            ):
                held = lines.pop()
            for line in lines:
                yield (_PREFIX.sub("", line) if line_begins else line).encode()
                line_begins = line.endswith("\n")
        if held:
            yield held.encode()


def _may_begin(lines: list[str], line_begins: bool) -> bool:  # noqa: FBT001 - private, and read at its one call.
    return (line_begins or len(lines) > 1) and lines[-1].startswith("[")
