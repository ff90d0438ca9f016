"""Large bytes between a program and its agent, in chunks, named by their digest."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qonduit.program.channel import AgentChannel

CHUNK_BYTES = 1024**2


def store_blob(channel: AgentChannel, data: bytes) -> str:
    """Store bytes through the agent and return their sha256; the same bytes are stored once."""
    digest = hashlib.sha256(data).hexdigest()
    if channel.call("blob_begin", size_bytes=len(data), digest=digest) == "present":
        return digest
    view = memoryview(data)
    for start in range(0, len(data), CHUNK_BYTES):
        channel.call("blob_chunk", digest=digest, data=bytes(view[start : start + CHUNK_BYTES]))
    channel.call("blob_commit", digest=digest)
    return digest


def fetch_blob(channel: AgentChannel, digest: str) -> bytes:
    """Return the bytes named by a digest; raises AgentError when the agent cannot get them."""
    parts: list[bytes] = []
    offset = 0
    while True:
        part = channel.call("blob_get", digest=digest, offset=offset, length=CHUNK_BYTES)
        parts.append(part)
        offset += len(part)
        if len(part) < CHUNK_BYTES:
            return b"".join(parts)
