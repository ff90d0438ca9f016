"""FunctionService."""

from __future__ import annotations

import difflib
import hashlib
import time
from typing import TYPE_CHECKING, Any

import grpc
from qonduit_api.v1 import functions_pb2, functions_pb2_grpc
from qonduit_service_kit.errors import ApiError

from qonduit_gateway.api import convert, paging
from qonduit_gateway.api.callers import caller
from qonduit_gateway.api.uploads import chunks_of, header_of
from qonduit_gateway.database import function_rows
from qonduit_gateway.functions.artifact import NotATarError, TarListing
from qonduit_gateway.functions.model import FunctionSpec, version_digest
from qonduit_gateway.functions.rules import broken_rules

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from qonduit_gateway.database.engine import Database
    from qonduit_gateway.functions.model import FunctionVersion
    from qonduit_gateway.storage_client import StorageClient

_LARGEST_SHOWN = 5
_PROGRAMS_SHOWN = 10
_UNSAFE_SHOWN = 3
_READ_ON_FACTOR = 4
_PREFIX_MIN = 8
_TITLES_COMPARED = 200
_TITLE_COMPARED_CHARS = 255
_MIB = 1024 * 1024


class FunctionCatalog:
    """Finds functions for callers."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, owner: str, title: str, version: str) -> FunctionVersion:
        """Return the current version, or the one that a digest or its beginning names.

        Raises:
            ApiError: NOT_FOUND (FUNCTION_NOT_FOUND) with close matches, INVALID_ARGUMENT (INVALID_VERSION).
        """
        if version and (len(version) < _PREFIX_MIN or not set(version) <= set("0123456789abcdef")):
            text = f"{version!r} names no version: give the digest, or its first {_PREFIX_MIN} digits or more."
            raise ApiError(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_VERSION", text, violations={"version": text})
        found = await self._database.read(lambda connection: function_rows.find(connection, owner, title, version))
        if len(found) == 1:
            return found[0]
        if found:
            text = f"Several versions of {title!r} begin with {version}. Give more digits."
            raise ApiError(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_VERSION", text, violations={"version": text})
        raise await self._not_found(owner, title, version)

    async def _not_found(self, owner: str, title: str, version: str) -> ApiError:
        titles = await self._database.read(lambda connection: function_rows.titles(connection, owner))
        if title in titles:
            text = f"Function {title!r} has no version {version}. List its versions to see which there are."
        else:
            text = f"There is no function {title!r}. {_suggestion(title, titles)}"
        return ApiError(
            grpc.StatusCode.NOT_FOUND,
            "FUNCTION_NOT_FOUND",
            text,
            metadata={"function_title": title, "function_version": version},
        )


def _suggestion(title: str, titles: list[str]) -> str:
    # Comparing takes time with the product of all lengths, in which nobody else would be served.
    compared = titles[:_TITLES_COMPARED] if len(title) <= _TITLE_COMPARED_CHARS else []
    close = difflib.get_close_matches(title, compared, n=3, cutoff=0.6)
    if close:
        return f"Did you mean {' or '.join(repr(each) for each in close)}?"
    if not titles:
        return "You have uploaded none yet: upload it first."
    return "Upload it first, or list your functions to see what there is."


class FunctionService(functions_pb2_grpc.FunctionServiceServicer):  # type: ignore[misc,unused-ignore]
    """Takes functions in and tells about them."""

    def __init__(
        self,
        database: Database,
        storage: StorageClient,
        catalog: FunctionCatalog,
        *,
        artifact_limit_bytes: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._storage = storage
        self._catalog = catalog
        self._limit = artifact_limit_bytes
        self._clock = clock

    async def UploadFunction(  # noqa: N802 - named by the API.
        self, request_iterator: AsyncIterator[Any], context: Any
    ) -> functions_pb2.UploadFunctionResponse:
        """Store an artifact while reading what it holds, then keep the version."""
        del context
        header = await header_of(request_iterator)
        spec = _spec(header.spec)
        wrong = broken_rules(spec, header.artifact_digest)
        if wrong:
            text = "The function can't be accepted: " + " ".join(f"{name}: {why}" for name, why in wrong.items())
            raise ApiError(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FUNCTION", text, violations=wrong)
        if header.artifact_bytes > self._limit:
            raise await self._too_large(request_iterator, header.artifact_bytes)
        listing = await self._take_artifact(request_iterator, header)
        _check_listing(listing, spec.entrypoint)
        version = version_digest(spec, header.artifact_digest)
        artifact = (header.artifact_digest, header.artifact_bytes)
        owner, now = caller().name, self._clock()
        stored, created = await self._database.write(
            lambda connection: function_rows.store(connection, owner, spec, version, artifact, at=now)
        )
        return functions_pb2.UploadFunctionResponse(function=convert.function(stored), created=created)

    async def GetFunction(  # noqa: N802
        self, request: functions_pb2.GetFunctionRequest, context: Any
    ) -> functions_pb2.GetFunctionResponse:
        """Return one function."""
        del context
        found = await self._catalog.find(caller().name, request.title, request.version)
        return functions_pb2.GetFunctionResponse(function=convert.function(found))

    async def ListFunctions(  # noqa: N802
        self, request: functions_pb2.ListFunctionsRequest, context: Any
    ) -> functions_pb2.ListFunctionsResponse:
        """List the caller's functions."""
        del context
        size, owner = paging.page_size(request.page_size), caller().name
        before = paging.from_token(request.page_token, float, int)
        rows = await self._database.read(
            lambda connection: function_rows.page(connection, owner, size=size, before=before)
        )
        functions = paging.fitting([convert.function(version) for version, _ in rows])
        more = len(rows) == size or len(functions) < len(rows)
        token = paging.to_token(rows[len(functions) - 1][1]) if more else ""
        return functions_pb2.ListFunctionsResponse(functions=functions, next_page_token=token)

    async def ListFunctionVersions(  # noqa: N802
        self, request: functions_pb2.ListFunctionVersionsRequest, context: Any
    ) -> functions_pb2.ListFunctionVersionsResponse:
        """List the versions of one function."""
        del context
        size, owner = paging.page_size(request.page_size), caller().name
        before = paging.from_token(request.page_token, int)
        await self._catalog.find(owner, request.title, "")
        rows = await self._database.read(
            lambda connection: function_rows.versions_page(connection, owner, request.title, size=size, before=before)
        )
        functions = paging.fitting([convert.function(version) for version in rows])
        more = len(rows) == size or len(functions) < len(rows)
        token = paging.to_token(rows[len(functions) - 1].version_id) if more else ""
        return functions_pb2.ListFunctionVersionsResponse(functions=functions, next_page_token=token)

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


def _spec(message: functions_pb2.FunctionSpec) -> FunctionSpec:
    return FunctionSpec(
        title=message.title,
        entrypoint=message.entrypoint,
        dependencies=tuple(message.dependencies),
        environment=dict(message.env_vars),
        description=message.description,
        version_label=message.version_label,
    )


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / _MIB:.1f} MiB"
