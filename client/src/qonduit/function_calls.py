"""What is asked of a server about functions: protobuf on one side, our own values on the other."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING

from qonduit_api.v1 import functions_pb2 as pb
from qonduit_api.v1.cluster_pb2 import GetInfoRequest

from qonduit.connection import CHUNK_BYTES
from qonduit.functions import RunnableQiskitFunction

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qonduit.artifact import Artifact
    from qonduit.connection import Connection
    from qonduit.functions import QiskitFunction


class FunctionCalls:
    """The function service of one server."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def artifact_limit_bytes(self) -> int:
        """Return how many bytes an artifact may have; 0 if the server doesn't say."""
        return self._connection.call(lambda to: to.cluster.GetInfo, GetInfoRequest()).artifact_limit_bytes

    def upload(self, function: QiskitFunction, entrypoint: str, packed: Artifact) -> RunnableQiskitFunction:
        """Upload a function with its artifact."""
        spec = pb.FunctionSpec(
            title=function.title,
            entrypoint=entrypoint,
            dependencies=function.dependencies,
            env_vars=function.env_vars,
            description=function.description,
            version_label=function.version,
        )
        header = pb.UploadFunctionHeader(spec=spec, artifact_digest=packed.digest, artifact_bytes=packed.size_bytes)

        def requests() -> Iterator[pb.UploadFunctionRequest]:
            yield pb.UploadFunctionRequest(header=header)
            packed.file.seek(0)
            while chunk := packed.file.read(CHUNK_BYTES):
                yield pb.UploadFunctionRequest(chunk=chunk)

        return _runnable(self._connection.send(lambda to: to.functions.UploadFunction, requests).function)

    def get(self, title: str, version: str) -> RunnableQiskitFunction:
        """Return a function, its newest version unless one is named."""
        request = pb.GetFunctionRequest(title=title, version=version)
        answer = self._connection.call(lambda to: to.functions.GetFunction, request)
        return _runnable(answer.function, pinned=bool(version))

    def list_functions(self, limit: int | None) -> list[RunnableQiskitFunction]:
        """Return the user's functions, newest first."""
        found: list[RunnableQiskitFunction] = []
        token = ""
        while limit is None or len(found) < limit:
            size = 1000 if limit is None else limit - len(found)
            page = self._connection.call(
                lambda to: to.functions.ListFunctions,
                pb.ListFunctionsRequest(page_size=min(size, 1000), page_token=token),
            )
            found += [_runnable(function) for function in page.functions]
            token = page.next_page_token
            if not token:
                break
        return found[:limit]


def _runnable(function: pb.Function, *, pinned: bool = False) -> RunnableQiskitFunction:
    return RunnableQiskitFunction(
        title=function.spec.title,
        entrypoint=function.spec.entrypoint,
        version=function.version,
        version_label=function.spec.version_label,
        description=function.spec.description,
        dependencies=tuple(function.spec.dependencies),
        owner=function.owner,
        size_bytes=function.artifact_bytes,
        created=function.create_time.ToDatetime(tzinfo=UTC) if function.HasField("create_time") else None,
        pinned=pinned,
    )
