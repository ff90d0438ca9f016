"""Functions, which Qiskit Serverless calls programs."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import grpc
from qonduit_api.v1 import functions_pb2, jobs_pb2
from qonduit_service_kit.errors import ApiError
from starlette.responses import JSONResponse

from qonduit_gateway.api.callers import caller
from qonduit_gateway.api.run_requests import INLINE_ARGUMENTS_LIMIT_BYTES
from qonduit_gateway.rest import bodies, errors, wording
from qonduit_gateway.rest.arguments import stored_digest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from starlette.requests import Request
    from starlette.responses import Response

    from qonduit_gateway.api.functions import FunctionService
    from qonduit_gateway.api.jobs import JobService
    from qonduit_gateway.api.run_jobs import JobIntake

_DROPPED = re.compile(r"[^A-Za-z0-9_.@/-]")
"""What Qiskit Serverless drops from a name; dots, and "@" before a version, are ours."""
_LARGE_AT_ONCE = 2
_TOO_LARGE = "Take out of the working directory what the program does not need, or upload data as files."
_NO_IMAGES = "Custom images are only available if you are a provider."


class Programs:
    """Takes functions in, tells about them, and runs them."""

    def __init__(
        self, functions: FunctionService, jobs: JobService, intake: JobIntake, *, artifact_limit_bytes: int
    ) -> None:
        self._functions = functions
        self._jobs = jobs
        self._intake = intake
        self._limit = artifact_limit_bytes
        self._large = asyncio.Semaphore(_LARGE_AT_ONCE)

    async def list(self, request: Request) -> Response:
        """List the caller's functions; also how a client finds out whether its token is good."""
        asked = request.query_params
        if asked.get("provider") or asked.get("filter") == "catalog":
            return JSONResponse([])  # Providers have none here yet.
        found: list[dict[str, Any]] = []
        page = functions_pb2.ListFunctionsRequest(page_size=1000)
        while True:
            answer = await self._functions.ListFunctions(page, None)
            found += map(wording.function, answer.functions)
            if not answer.next_page_token:
                return JSONResponse(found)
            page.page_token = answer.next_page_token

    async def get(self, request: Request) -> Response:
        """Return the function of a title."""
        found = await self.find_for(request.path_params["title"], request.query_params.get("provider"))
        return JSONResponse(wording.function(found))

    async def find_for(self, title: str, provider: str | None = None) -> functions_pb2.Function:
        """Return the caller's function of a title as it was sent; ApiError if there is none."""
        wanted = functions_pb2.GetFunctionRequest(title=own_title(title, provider))
        answer = await self._functions.GetFunction(wanted, None)
        return answer.function

    async def upload(self, request: Request) -> Response:
        """Take a function in: the fields of a form, and its working folder as the file `artifact`, a tar."""
        async with bodies.form(request, self._limit, _TOO_LARGE) as fields:
            if bodies.text(fields, "image"):
                raise bodies.invalid(_NO_IMAGES)
            if provider := bodies.text(fields, "provider"):
                raise bodies.invalid(f"{provider} is not valid provider.")
            artifact = await bodies.sent_file(fields, "artifact")
            if artifact is None:
                raise bodies.invalid("Send the working directory as a tar in the form's file `artifact`.")
            spec = _spec(fields, await self._before(fields))
            header = functions_pb2.UploadFunctionHeader(
                spec=spec, artifact_digest=artifact.digest, artifact_bytes=artifact.size_bytes
            )
            first = functions_pb2.UploadFunctionRequest(header=header)
            answer = await self._functions.UploadFunction(
                artifact.messages(first, functions_pb2.UploadFunctionRequest), None
            )
        return JSONResponse(wording.uploaded(answer.function))

    async def run(self, request: Request) -> Response:
        """Run a function with arguments, a JSON text in the encoding of qiskit-ibm-runtime."""
        async with self._asked(request) as asked:
            return await self._run(asked, request.headers.get("idempotency-key", ""))

    async def _run(self, asked: dict[str, Any], key: str) -> Response:
        title = _title_in(asked)
        if size := bodies.text(asked, "function_size"):
            raise bodies.invalid(f"Function {title} has no size {size!r}: functions have no sizes here. Leave it out.")
        wanted = jobs_pb2.RunRequest(function_title=title)
        # That client sends no key, and two runs of one function with the same arguments are two jobs that somebody may
        # want: nothing tells them from a call that was repeated. Who sends a key has what it is for.
        wanted.idempotency_key = key
        arguments = (bodies.text(asked, "arguments") or "{}").encode()
        asked.clear()  # What is large is not kept twice.
        if len(arguments) > INLINE_ARGUMENTS_LIMIT_BYTES:
            wanted.arguments_digest = await stored_digest(self._jobs, arguments)
        else:
            wanted.arguments_json = arguments
        answer = await self._jobs.Run(wanted, None)
        return JSONResponse(wording.accepted(answer.job))

    async def validate(self, request: Request) -> Response:
        """Tell whether arguments fit what a function says of them."""
        async with self._asked(request) as asked:
            arguments = (bodies.text(asked, "arguments") or "{}").encode()
            try:
                await self._intake.check(caller(), _title_in(asked), arguments)
            except ApiError as error:
                if error.reason != "INVALID_ARGUMENTS":
                    raise
                path = next(iter(error.violations), "")
                body = {"message": error.text, "path": [] if path == "arguments" else path.split(".")}
                return JSONResponse(body, 400)
        return JSONResponse({"valid": True})

    async def dependencies(self, request: Request) -> Response:
        """List the packages to choose from: none, as functions may name any, and it is installed for them."""
        del request
        return JSONResponse([])

    @asynccontextmanager
    async def _asked(self, request: Request) -> AsyncIterator[dict[str, Any]]:
        """Read a body with arguments; of large ones, which are in memory a few times, only some at once."""
        size = request.headers.get("content-length", "")
        small = size.isdigit() and int(size) <= INLINE_ARGUMENTS_LIMIT_BYTES
        async with nullcontext() if small else self._large:
            yield await bodies.json_object(request)

    async def _before(self, fields: Mapping[str, Any]) -> functions_pb2.FunctionSpec:
        """Return what the function is so far: an upload keeps what it does not speak of."""
        try:
            return (await self.find_for(bodies.text(fields, "title"))).spec
        except ApiError as error:
            if error.code is not grpc.StatusCode.NOT_FOUND:
                raise
            return functions_pb2.FunctionSpec()


def own_title(title: str, provider: str | None) -> str:
    """Return the title of an own function, as Qiskit Serverless reads it; ApiError for one of a provider."""
    kept = _DROPPED.sub("", title.strip())
    named, slash, rest = kept.partition("/")
    if slash or (provider or "").strip():
        text = errors.unknown_function(rest or named, (provider or "").strip() or named)
        raise ApiError(grpc.StatusCode.NOT_FOUND, "PROVIDER_FUNCTION_NOT_FOUND", text)
    return kept


def _title_in(asked: Mapping[str, Any]) -> str:
    return own_title(bodies.text(asked, "title"), bodies.text(asked, "provider"))


def _spec(fields: Mapping[str, Any], before: functions_pb2.FunctionSpec) -> functions_pb2.FunctionSpec:
    def kept(name: str, value: str) -> str:
        return bodies.text(fields, name) if name in fields else value

    schema = kept("arguments_schema", before.arguments_schema)
    variables = bodies.json_field(fields, "env_vars", dict, {})
    return functions_pb2.FunctionSpec(
        title=own_title(bodies.text(fields, "title"), None),
        entrypoint=bodies.text(fields, "entrypoint"),
        dependencies=_dependencies(bodies.json_field(fields, "dependencies", list, [])),
        env_vars={
            str(name): value if isinstance(value, str) else json.dumps(value) for name, value in variables.items()
        },
        description=kept("description", before.description),
        version_label=kept("version", before.version_label),
        arguments_schema="" if schema == "{}" else schema,
    )


def _dependencies(sent: list[Any]) -> list[str]:
    """Return requirements: that client also takes {"name": "version"} for "name==version"."""
    made = []
    for each in sent:
        if isinstance(each, dict):
            made += [f"{name}=={str(version).removeprefix('==')}" for name, version in each.items()]
        else:
            made.append(str(each))
    return made
