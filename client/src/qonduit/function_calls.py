"""What is asked of a server about functions: protobuf on one side, our own values on the other."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC
from typing import TYPE_CHECKING, Final

from qonduit_api.v1 import functions_pb2 as pb
from qonduit_api.v1.cluster_pb2 import GetInfoRequest

from qonduit.connection import CHUNK_BYTES
from qonduit.exceptions import AuthenticationError, ServerError, ServerUnavailableError
from qonduit.functions import FunctionFile, RunnableQiskitFunction
from qonduit.roles import role_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from qonduit.artifact import Artifact, Content
    from qonduit.connection import Connection
    from qonduit.functions import QiskitFunction

_COPIED_FROM_BYTES: Final = 256 * 1024
"""Smaller artifacts are sent as quickly as it is asked what the server has of them."""
_COPIED_FILE_BYTES: Final = 4 * 1024
_FILTERS: Final = {
    "own": pb.FUNCTION_FILTER_OWN,
    "providers": pb.FUNCTION_FILTER_OF_PROVIDERS,
    "all": pb.FUNCTION_FILTER_ALL,
}


class FunctionCalls:
    """The function service of one server."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def artifact_limit_bytes(self) -> int:
        """Return how many bytes an artifact may have; 0 if the server doesn't say."""
        return self._connection.call(lambda to: to.cluster.GetInfo, GetInfoRequest()).artifact_limit_bytes

    def upload(self, function: QiskitFunction, entrypoint: str, packed: Artifact) -> RunnableQiskitFunction:
        """Upload a function with its artifact; of files that its latest version has only a reference is sent."""
        schema = function.arguments_schema
        spec = pb.FunctionSpec(
            title=function.name,
            entrypoint=entrypoint,
            dependencies=function.dependencies,
            env_vars=function.env_vars,
            description=function.description,
            version_label=function.version,
            arguments_schema="" if schema is None else json.dumps(schema),
        )
        base, known = self._known(function.name) if packed.size_bytes >= _COPIED_FROM_BYTES else ("", {})
        try:
            return self._send(spec, packed, base, known)
        except ServerError:
            if not base:
                raise
            # Whatever the server could not copy, or copied wrongly: all of it is sent, and refused if it must be.
            return self._send(spec, packed, "", {})

    def _send(
        self, spec: pb.FunctionSpec, packed: Artifact, base: str, known: Mapping[str, int]
    ) -> RunnableQiskitFunction:
        header = pb.UploadFunctionHeader(
            spec=spec, artifact_digest=packed.digest, artifact_bytes=packed.size_bytes, base_version=base
        )

        def requests() -> Iterator[pb.UploadFunctionRequest]:
            yield pb.UploadFunctionRequest(header=header)
            yield from _parts(packed, known)

        return _runnable(self._connection.send(lambda to: to.functions.UploadFunction, requests).function)

    def _known(self, title: str) -> tuple[str, dict[str, int]]:
        """Return the latest version of a function, and where the bytes of a digest are in its artifact.

        Nothing, where that cannot be told: there is none, its artifact is damaged, or the server is an older one.
        """
        try:
            version = self.get(title, "").version
            return version, {file.digest: offset for file, offset in self.files(title, version)}
        except (AuthenticationError, ServerUnavailableError):
            raise
        except ServerError:
            return "", {}

    def get(self, title: str, version: str) -> RunnableQiskitFunction:
        """Return a function, its latest version unless one is named."""
        request = pb.GetFunctionRequest(title=title, version=version)
        answer = self._connection.call(lambda to: to.functions.GetFunction, request)
        return _runnable(answer.function, pinned=bool(version) or "@" in title)

    def list_functions(
        self, limit: int | None, whose: str = "own", provider: str | None = None
    ) -> list[RunnableQiskitFunction]:
        """Return functions, newest first; ValueError if `whose` is not known."""
        if whose not in _FILTERS:
            raise ValueError(f"whose must be one of {', '.join(_FILTERS)}, and is {whose!r}.")
        found: list[RunnableQiskitFunction] = []
        token = ""
        while limit is None or len(found) < limit:
            size = 1000 if limit is None else limit - len(found)
            page = self._connection.call(
                lambda to: to.functions.ListFunctions,
                pb.ListFunctionsRequest(
                    page_size=min(size, 1000), page_token=token, filter=_FILTERS[whose], provider=provider or ""
                ),
            )
            found += [_runnable(function) for function in page.functions]
            token = page.next_page_token
            if not token:
                break
        return found[:limit]

    def versions(self, title: str) -> list[RunnableQiskitFunction]:
        """Return all versions of a function, newest first."""
        found: list[RunnableQiskitFunction] = []
        token = ""
        while True:
            request = pb.ListFunctionVersionsRequest(title=title, page_size=1000, page_token=token)
            page = self._connection.call(lambda to: to.functions.ListFunctionVersions, request)
            found += [_runnable(function, pinned=True) for function in page.functions]
            token = page.next_page_token
            if not token:
                return found

    def files(self, title: str, version: str) -> list[tuple[FunctionFile, int]]:
        """Return a version's files, by path, and where their bytes begin in its artifact."""
        request = pb.ListFunctionFilesRequest(title=title, version=version)
        return [
            (FunctionFile(file.path, file.size_bytes, file.digest), file.offset)
            for page in self._connection.receive(lambda to: to.functions.ListFunctionFiles, request)
            for file in page.files
        ]

    def set_alias(self, title: str, alias: str, version: str) -> RunnableQiskitFunction:
        """Have an alias stand for a version."""
        request = pb.SetFunctionAliasRequest(title=title, alias=alias, version=version)
        return _runnable(self._connection.call(lambda to: to.functions.SetFunctionAlias, request).function, pinned=True)

    def remove_alias(self, title: str, alias: str) -> None:
        """Remove an alias."""
        request = pb.DeleteFunctionAliasRequest(title=title, alias=alias)
        # Not again by itself: who repeats it after a lost answer would be told that there is none.
        self._connection.call(lambda to: to.functions.DeleteFunctionAlias, request, idempotent=False)


def _parts(packed: Artifact, known: Mapping[str, int]) -> Iterator[pb.UploadFunctionRequest]:
    """Yield an artifact as chunks, and as copies of what is known by its digest."""
    sent = 0
    for content in packed.contents if known else ():
        offset = known.get(_digest(packed, content)) if content.size_bytes >= _COPIED_FILE_BYTES else None
        if offset is None:
            continue
        yield from _chunks(packed, sent, content.offset)
        yield pb.UploadFunctionRequest(copy=pb.ArtifactRange(offset=offset, length=content.size_bytes))
        sent = content.offset + content.size_bytes
    yield from _chunks(packed, sent, packed.size_bytes)


def _chunks(packed: Artifact, start: int, end: int) -> Iterator[pb.UploadFunctionRequest]:
    for at in range(start, end, CHUNK_BYTES):
        packed.file.seek(at)
        yield pb.UploadFunctionRequest(chunk=packed.file.read(min(CHUNK_BYTES, end - at)))


def _digest(packed: Artifact, content: Content) -> str:
    packed.file.seek(content.offset)
    digest = hashlib.sha256()
    left = content.size_bytes
    while left:
        piece = packed.file.read(min(left, CHUNK_BYTES))
        digest.update(piece)
        left -= len(piece)
    return digest.hexdigest()


def _runnable(function: pb.Function, *, pinned: bool = False) -> RunnableQiskitFunction:
    schema = function.spec.arguments_schema
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
        aliases=tuple(function.aliases),
        arguments_schema=json.loads(schema) if schema else None,
        provider=function.provider,
        disabled_text=function.disabled_text,
        roles=tuple(role_text(role) for role in function.roles),
        pinned=pinned,
    )
