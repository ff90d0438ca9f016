"""Results with arrays and circuits behind their JSON ("QVALUE1"), as the JSON alone that other clients read.

The form is told by `qonduit.large_values` of the SDK. An array is kept as numpy's own file and a circuit as QPY, which
are just what qiskit-ibm-runtime's encoding has in base64, compressed by zlib: no value is ever decoded here.
"""

from __future__ import annotations

import asyncio
import base64
import struct
import tempfile
import zlib
from contextlib import aclosing
from typing import TYPE_CHECKING

import zstandard

from qonduit_gateway.segments import MAGIC, REFERENCE, TYPES

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator
    from typing import BinaryIO

_NUMBER = struct.Struct("<Q")
_ALIGNMENT = 64
_IN_MEMORY_BYTES = 1024**2
_WINDOW_BYTES = 256 * 1024
_LONGEST_REFERENCE_BYTES = 128
_FASTEST = 1


async def plain(chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Return a result's JSON without anything behind it."""
    begun = bytearray()
    async with aclosing(chunks):
        async for chunk in chunks:
            begun += chunk
            if len(begun) >= len(MAGIC):
                break
        if not begun.startswith(MAGIC):
            yield bytes(begun)
            async for chunk in chunks:
                yield chunk
            return
        with tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES) as file:
            file.write(begun)
            async for chunk in chunks:
                await asyncio.to_thread(file.write, chunk)
            pieces = _pieces(file)
            while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
                yield piece


def _pieces(file: BinaryIO | tempfile.SpooledTemporaryFile[bytes]) -> Iterator[bytes]:
    """Yield the JSON with each segment in its place."""
    file.seek(len(MAGIC))
    json_bytes, count = _numbers(file, 2)
    lengths = _numbers(file, count)
    at = file.tell()
    end = at + json_bytes
    places = _places(end, lengths)
    held = b""
    while at < end or held:
        file.seek(at)
        window = held + file.read(min(_WINDOW_BYTES, end - at))
        at = min(at + _WINDOW_BYTES, end)
        done = 0
        for found in REFERENCE.finditer(window):
            yield window[done : found.start()]
            yield from _value(file, found[1], *places[int(found[2])])
            done = found.end()
        # The last bytes may be the beginning of a reference.
        keep = max(done, len(window) - _LONGEST_REFERENCE_BYTES) if at < end else len(window)
        yield window[done:keep]
        held = window[keep:]


def _numbers(file: BinaryIO | tempfile.SpooledTemporaryFile[bytes], count: int) -> list[int]:
    return [_NUMBER.unpack(file.read(_NUMBER.size))[0] for _ in range(count)]


def _places(at: int, lengths: list[int]) -> list[tuple[int, int]]:
    """Return where each segment begins and how long it is."""
    places = []
    for length in lengths:
        at = -(-at // _ALIGNMENT) * _ALIGNMENT
        places.append((at, length))
        at += length
    return places


def _value(
    file: BinaryIO | tempfile.SpooledTemporaryFile[bytes], kind: bytes, start: int, length: int
) -> Iterator[bytes]:
    """Yield a segment as qiskit-ibm-runtime writes it into JSON."""
    yield b'{"__type__": "' + TYPES[kind] + b'", "__value__": "'
    unpacker = zstandard.ZstdDecompressor().decompressobj() if kind == b"qpy.zst" else None
    packer = zlib.compressobj(_FASTEST)
    held = b""
    for at in range(start, start + length, _WINDOW_BYTES):
        file.seek(at)
        content = file.read(min(_WINDOW_BYTES, start + length - at))
        held += packer.compress(unpacker.decompress(content) if unpacker else content)
        whole = len(held) - len(held) % 3  # Base64 has no seams only between groups of three bytes.
        yield base64.b64encode(held[:whole])
        held = held[whole:]
    yield base64.b64encode(held + packer.flush()) + b'"}'
