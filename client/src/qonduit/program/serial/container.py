"""The container of one encoded value.

A value without large buffers is its pickle and nothing more: a pickle of protocol 2 or later begins with 0x80. With
large buffers or circuits it is

    magic (4 bytes) | flags (u32) | count (u32) | length of the pickle (u64) | length of each buffer (count x u64)
    pickle | padding | buffer 0 | padding | buffer 1 | ...

with little-endian numbers and each buffer at an offset that is a multiple of 64 bytes: where the container is mapped
from a file, arrays lie as their library would have laid them. With flag 1 the last buffer is the value's circuits.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

_MAGIC: Final = b"QND\x01"
_PICKLE: Final = 0x80
_HEAD: Final = struct.Struct("<4sIIQ")
_ALIGNMENT: Final = 64
_HAS_CIRCUITS: Final = 1


class Contents(NamedTuple):
    """What a container holds, as views into it."""

    pickle: memoryview
    buffers: list[memoryview]
    circuits: memoryview | None


def pack(pickled: bytes, buffers: list[memoryview], circuits: bytes | None) -> list[bytes | memoryview]:
    """Return the parts of a container; their concatenation is what `unpack` reads. Copies no buffer."""
    if not buffers and circuits is None:
        return [pickled]
    tail: list[bytes | memoryview] = [*buffers]
    if circuits is not None:
        tail.append(circuits)
    lengths = [len(part) for part in tail]
    head = _HEAD.pack(_MAGIC, _HAS_CIRCUITS if circuits is not None else 0, len(tail), len(pickled))
    parts: list[bytes | memoryview] = [head + struct.pack(f"<{len(tail)}Q", *lengths) + pickled]
    offset = len(parts[0])
    for part, length in zip(tail, lengths, strict=True):
        if padding := -offset % _ALIGNMENT:
            parts.append(bytes(padding))
        parts.append(part)
        offset += padding + length
    return parts


def is_bare(data: bytes | bytearray | memoryview) -> bool:
    """Whether a value is its pickle and nothing more."""
    return len(data) > 0 and data[0] == _PICKLE


def unpack(data: bytes | bytearray | memoryview) -> Contents:
    """Split a container that is not bare into views.

    Raises:
        ValueError: it is cut short, or no container at all.
    """
    try:
        return _unpack(memoryview(data).cast("B"))
    except struct.error:
        raise ValueError("these bytes are no encoded value, or were cut short") from None


def _unpack(view: memoryview) -> Contents:
    magic, flags, count, pickle_bytes = _HEAD.unpack_from(view)
    if magic != _MAGIC:
        raise ValueError("these bytes are no encoded value")
    lengths = struct.unpack_from(f"<{count}Q", view, _HEAD.size)
    start = _HEAD.size + 8 * count
    offset = start + pickle_bytes
    buffers = []
    for length in lengths:
        offset += -offset % _ALIGNMENT
        buffers.append(view[offset : offset + length])
        offset += length
    if offset > len(view):
        raise ValueError(f"an encoded value was cut short: {len(view)} of {offset} bytes are there")
    circuits = buffers.pop() if flags & _HAS_CIRCUITS else None
    return Contents(view[start : start + pickle_bytes], buffers, circuits)
