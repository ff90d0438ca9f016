"""Large arguments: stored first, as a client of the gRPC API does it, and then named."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from qonduit_api.v1 import jobs_pb2

from qonduit_gateway.api.uploads import CHUNK_LIMIT_BYTES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from qonduit_gateway.api.jobs import JobService


async def stored_digest(jobs: JobService, arguments: bytes) -> str:
    """Store arguments and return their digest; as by gRPC, nobody looks whether they are a JSON object."""
    header = jobs_pb2.UploadArgumentsHeader(digest=hashlib.sha256(arguments).hexdigest(), size_bytes=len(arguments))

    async def messages() -> AsyncIterator[jobs_pb2.UploadArgumentsRequest | bytes]:
        yield jobs_pb2.UploadArgumentsRequest(header=header)
        for start in range(0, len(arguments), CHUNK_LIMIT_BYTES):
            yield arguments[start : start + CHUNK_LIMIT_BYTES]

    return (await jobs.UploadArguments(messages(), None)).digest
