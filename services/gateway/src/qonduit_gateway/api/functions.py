"""FunctionService."""

from __future__ import annotations

import asyncio
import hashlib
import time
from typing import TYPE_CHECKING, Any

import grpc
from qonduit_api.v1 import functions_pb2, functions_pb2_grpc
from qonduit_service_kit.chunks import Chunk
from qonduit_service_kit.errors import ApiError

from qonduit_gateway.api import convert, paging, provider_checks
from qonduit_gateway.api.callers import caller
from qonduit_gateway.api.uploads import chunks_of, header_of
from qonduit_gateway.database import audit_rows, function_rows, grant_rows
from qonduit_gateway.database.audit_rows import AuditEntry
from qonduit_gateway.functions.artifact import NotATarError, TarListing
from qonduit_gateway.functions.assembling import BaseArtifact, CopyError
from qonduit_gateway.functions.model import FunctionName, FunctionSpec, version_digest
from qonduit_gateway.functions.rules import LATEST, broken_alias_rule, broken_rules, broken_title_rule
from qonduit_gateway.providers.access import OWNER, Action, access_at

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sqlalchemy import ColumnElement, Connection

    from qonduit_gateway.api.function_catalog import FunctionCatalog
    from qonduit_gateway.database.engine import Database
    from qonduit_gateway.functions.model import FunctionVersion
    from qonduit_gateway.functions.schema_process import SchemaProcess
    from qonduit_gateway.providers.access import Grant
    from qonduit_gateway.storage_client import StorageClient

_LARGEST_SHOWN = 5
_PROGRAMS_SHOWN = 10
_UNSAFE_SHOWN = 3
_READ_ON_FACTOR = 4
_FILES_AT_ONCE = 1000
_MIB = 1024 * 1024


class FunctionService(functions_pb2_grpc.FunctionServiceServicer):  # type: ignore[misc,unused-ignore]
    """Takes functions in and tells about them."""

    def __init__(
        self,
        database: Database,
        storage: StorageClient,
        catalog: FunctionCatalog,
        schemas: SchemaProcess,
        *,
        artifact_limit_bytes: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._storage = storage
        self._catalog = catalog
        self._schemas = schemas
        self._limit = artifact_limit_bytes
        self._clock = clock

    async def UploadFunction(  # noqa: N802 - named by the API.
        self, request_iterator: AsyncIterator[Any], context: Any
    ) -> functions_pb2.UploadFunctionResponse:
        """Store an artifact while reading what it holds, then keep the version."""
        del context
        header = await header_of(request_iterator)
        user = caller().name
        name = FunctionName.of(user, header.spec.title)
        await self._database.read(lambda connection: _check_upload(connection, user, name))
        spec = _spec(header.spec, name.title)
        wrong = broken_rules(spec, header.artifact_digest)
        if name.provider and (rule := broken_title_rule(name.title)):
            wrong["spec.title"] = rule
        if spec.arguments_schema and (rule := await self._schemas.broken_rule(spec.arguments_schema)):
            wrong["spec.arguments_schema"] = rule
        if wrong:
            text = "The function can't be accepted: " + " ".join(f"{name}: {why}" for name, why in wrong.items())
            raise ApiError(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FUNCTION", text, violations=wrong)
        if header.artifact_bytes > self._limit:
            raise await self._too_large(request_iterator, header.artifact_bytes)
        with BaseArtifact() as base:
            await self._bring_base(base, str(name), header.base_version)
            listing = await self._take_artifact(assembled(request_iterator, base), header)
        _check_listing(listing, spec.entrypoint)
        version = version_digest(spec, header.artifact_digest)
        artifact = (header.artifact_digest, header.artifact_bytes)

        def write(connection: Connection) -> tuple[FunctionVersion, bool]:
            # Once more: the upload may have taken an hour.
            _check_upload(connection, user, name)
            self._audit(connection, user, name, "function.upload", detail=f"version {version}")
            return function_rows.store(connection, name, spec, version, artifact, at=self._clock())

        stored, created = await self._database.write(write)
        return functions_pb2.UploadFunctionResponse(function=convert.function(stored, OWNER), created=created)

    async def GetFunction(  # noqa: N802
        self, request: functions_pb2.GetFunctionRequest, context: Any
    ) -> functions_pb2.GetFunctionResponse:
        """Return one function."""
        del context
        found = await self._catalog.find(caller().name, request.title, request.version)
        return functions_pb2.GetFunctionResponse(function=convert.function(found.version, found.access))

    async def ListFunctions(  # noqa: N802
        self, request: functions_pb2.ListFunctionsRequest, context: Any
    ) -> functions_pb2.ListFunctionsResponse:
        """List functions, the caller's own unless others are asked for."""
        del context
        size, user = paging.page_size(request.page_size), caller().name
        before = paging.from_token(request.page_token, float, int)
        which = _which(request, user)

        def read(connection: Connection) -> tuple[list[tuple[FunctionVersion, tuple[float, int]]], list[Grant]]:
            rows = function_rows.page(connection, which, size=size, before=before)
            return rows, grant_rows.held(connection, user, {version.name.provider for version, _ in rows} - {""})

        rows, held = await self._database.read(read)
        functions = paging.fitting([_listed(version, held) for version, _ in rows])
        more = len(rows) == size or len(functions) < len(rows)
        token = paging.to_token(rows[len(functions) - 1][1]) if more else ""
        return functions_pb2.ListFunctionsResponse(functions=functions, next_page_token=token)

    async def ListFunctionVersions(  # noqa: N802
        self, request: functions_pb2.ListFunctionVersionsRequest, context: Any
    ) -> functions_pb2.ListFunctionVersionsResponse:
        """List the versions of one function."""
        del context
        size = paging.page_size(request.page_size)
        before = paging.from_token(request.page_token, float, int)
        found = await self._catalog.find(caller().name, request.title)
        name = found.version.name
        rows = await self._database.read(
            lambda connection: function_rows.versions_page(connection, name, size=size, before=before)
        )
        functions = paging.fitting([convert.function(version, found.access) for version in rows])
        more = len(rows) == size or len(functions) < len(rows)
        last = rows[len(functions) - 1] if more else None
        token = "" if last is None else paging.to_token([last.created_at, last.version_id])
        return functions_pb2.ListFunctionVersionsResponse(functions=functions, next_page_token=token)

    async def ListFunctionFiles(  # noqa: N802
        self, request: functions_pb2.ListFunctionFilesRequest, context: Any
    ) -> AsyncIterator[functions_pb2.ListFunctionFilesResponse]:
        """List what a version's artifact holds."""
        del context
        found = await self._catalog.find(caller().name, request.title, request.version, Action.MANAGE)
        listing = TarListing(hashing=True)
        async for chunk in self._storage.blob(found.version.artifact_digest):
            await asyncio.to_thread(listing.feed, chunk)
        files = [
            functions_pb2.FunctionFile(
                path=each.path.encode("utf-8", "replace").decode(),
                size_bytes=each.size_bytes,
                digest=each.digest,
                offset=each.offset,
            )
            for each in sorted(listing.members, key=lambda each: each.path)
        ]
        for start in range(0, len(files), _FILES_AT_ONCE):
            yield functions_pb2.ListFunctionFilesResponse(files=files[start : start + _FILES_AT_ONCE])

    async def SetFunctionAlias(  # noqa: N802
        self, request: functions_pb2.SetFunctionAliasRequest, context: Any
    ) -> functions_pb2.SetFunctionAliasResponse:
        """Have an alias stand for a version."""
        del context
        alias = request.alias
        if wrong := broken_alias_rule(alias):
            text = f"{alias[:100]!r} can't be an alias. {wrong}"
            raise ApiError(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ALIAS", text, violations={"alias": wrong})
        user = caller().name
        version = (await self._catalog.find(user, request.title, request.version, Action.MANAGE)).version

        def write(connection: Connection) -> FunctionVersion:
            self._audit(connection, user, version.name, "alias.set", subject=alias, detail=f"version {version.version}")
            return function_rows.set_alias(connection, version.version_id, alias)

        stored = await self._database.write(write)
        return functions_pb2.SetFunctionAliasResponse(function=convert.function(stored, OWNER))

    async def DeleteFunctionAlias(  # noqa: N802
        self, request: functions_pb2.DeleteFunctionAliasRequest, context: Any
    ) -> functions_pb2.DeleteFunctionAliasResponse:
        """Remove an alias."""
        del context
        user, alias = caller().name, request.alias
        name = FunctionName.of(user, request.title)
        if alias == LATEST:
            text = f"{LATEST!r} always stands for a version. Set it to another one instead."
            raise ApiError(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ALIAS", text, violations={"alias": text})

        if name.provider:
            await self._catalog.find(user, str(name), LATEST, Action.MANAGE)

        def write(connection: Connection) -> bool:
            function_id = function_rows.function_id_of(connection, name)
            gone = function_id is not None and function_rows.delete_alias(connection, function_id, alias)
            if gone:
                self._audit(connection, user, name, "alias.remove", subject=alias)
            return gone

        if not await self._database.write(write):
            title = str(name)[:255]
            text = f"There is no alias {alias[:100]!r} of a function {title!r}. List its versions to see which are."
            raise ApiError(grpc.StatusCode.NOT_FOUND, "ALIAS_NOT_FOUND", text, metadata={"alias": alias[:100]})
        return functions_pb2.DeleteFunctionAliasResponse()

    def _audit(
        self, connection: Connection, user: str, name: FunctionName, action: str, *, subject: str = "", detail: str = ""
    ) -> None:
        if name.provider:
            audit_rows.add(connection, AuditEntry(self._clock(), user, action, name.place, subject, detail))

    async def _bring_base(self, base: BaseArtifact, name: str, version: str) -> None:
        """Fetch what is copied from: only what the caller may read anyway, so that nobody learns what others have."""
        if version:
            found = await self._catalog.find(caller().name, name, version, Action.MANAGE)
            async for chunk in self._storage.blob(found.version.artifact_digest):
                base.add(chunk)

    async def _take_artifact(
        self, requests: AsyncIterator[Any], header: functions_pb2.UploadFunctionHeader
    ) -> TarListing:
        listing, digest = TarListing(), hashlib.sha256()
        upload = self._storage.open_blob(header.artifact_digest, header.artifact_bytes)
        wanted = True
        try:
            async for chunk in chunks_of(requests, header.artifact_bytes):
                digest.update(chunk)
                listing.feed(chunk)
                # Storage stops listening when it has the bytes already; they are read to the end all the same.
                wanted = wanted and await upload.send(chunk)
            listing.finish()
            if digest.hexdigest() != header.artifact_digest:
                text = "The artifact's bytes don't match its digest: it was damaged on the way. Upload it again."
                raise ApiError(grpc.StatusCode.INVALID_ARGUMENT, "DIGEST_MISMATCH", text)
            await upload.finish()
        except NotATarError as error:
            raise ApiError(
                grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FUNCTION", str(error), violations={"artifact": str(error)}
            ) from error
        finally:
            upload.abandon()
        return listing

    async def _too_large(self, requests: AsyncIterator[Any], size_bytes: int) -> ApiError:
        """Read on, without storing anything, to name the files that make it so large."""
        listing, seen = TarListing(), 0
        try:
            async for chunk in chunks_of(requests, size_bytes):
                listing.feed(chunk)
                seen += len(chunk)
                if seen > _READ_ON_FACTOR * self._limit:
                    break
        except (NotATarError, ApiError):
            pass  # Too large it is in any case; what was understood so far is told.
        largest = ", ".join(f"{each.path} ({_mib(each.size_bytes)})" for each in listing.largest(_LARGEST_SHOWN))
        text = (
            f"The artifact has {_mib(size_bytes)}, the limit is {_mib(self._limit)}. Take out what the program does "
            f"not need, or upload data as files. Largest: {largest or 'unknown'}."
        )
        metadata = {"size_bytes": str(size_bytes), "limit_bytes": str(self._limit), "largest": largest}
        return ApiError(grpc.StatusCode.RESOURCE_EXHAUSTED, "ARTIFACT_TOO_LARGE", text, metadata=metadata)


async def assembled(requests: AsyncIterator[Any], base: BaseArtifact) -> AsyncIterator[Any]:
    """Yield the messages of an upload, each range of the base version as the chunks that it stands for.

    Raises:
        ApiError: There is no such range.
    """
    async for request in requests:
        if isinstance(request, Chunk) or request.WhichOneof("part") != "copy":
            yield request
            continue
        try:
            for piece in base.pieces(request.copy.offset, request.copy.length):
                yield piece
        except CopyError as error:
            raise ApiError(
                grpc.StatusCode.INVALID_ARGUMENT, "INVALID_COPY", str(error), violations={"copy": str(error)}
            ) from error


def _check_upload(connection: Connection, user: str, name: FunctionName) -> None:
    if not name.provider:
        return
    access = provider_checks.access_to(connection, user, name)
    if not access.allows(Action.SEE):
        raise provider_checks.provider_not_found(name.provider)
    provider_checks.check(access, name.place, Action.MANAGE)


def _which(request: functions_pb2.ListFunctionsRequest, user: str) -> ColumnElement[bool]:
    everything = request.filter == functions_pb2.FUNCTION_FILTER_ALL
    of_providers = everything or request.filter == functions_pb2.FUNCTION_FILTER_OF_PROVIDERS
    if request.provider:
        return grant_rows.visible_to(user, request.provider)
    return grant_rows.functions_of(user, own=everything or not of_providers, of_providers=of_providers)


def _listed(version: FunctionVersion, held: list[Grant]) -> functions_pb2.Function:
    return convert.function(version, access_at(version.name.place, held) if version.name.provider else OWNER)


def _check_listing(listing: TarListing, entrypoint: str) -> None:
    if listing.unsafe:
        names = ", ".join(repr(name) for name in listing.unsafe[:_UNSAFE_SHOWN])
        text = f"The artifact can't be unpacked safely, because of {names}. Pack files and folders by relative names."
        raise ApiError(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FUNCTION", text, violations={"artifact": text})
    if any(member.path == entrypoint for member in listing.members):
        return
    programs = sorted(member.path for member in listing.members if member.path.endswith(".py"))
    there = ", ".join(programs[:_PROGRAMS_SHOWN]) + (", ..." if len(programs) > _PROGRAMS_SHOWN else "")
    text = f"The entrypoint {entrypoint!r} is not in the working directory. Python files there: {there or 'none'}."
    raise ApiError(
        grpc.StatusCode.INVALID_ARGUMENT,
        "ENTRYPOINT_NOT_FOUND",
        text,
        metadata={"entrypoint": entrypoint, "found": there},
        violations={"spec.entrypoint": text},
    )


def _spec(message: functions_pb2.FunctionSpec, title: str) -> FunctionSpec:
    return FunctionSpec(
        title=title,
        entrypoint=message.entrypoint,
        dependencies=tuple(message.dependencies),
        environment=dict(message.env_vars),
        description=message.description,
        version_label=message.version_label,
        arguments_schema=message.arguments_schema,
    )


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / _MIB:.1f} MiB"
