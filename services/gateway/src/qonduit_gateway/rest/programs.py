"""Functions, which Qiskit Serverless calls programs."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import grpc
from qonduit_api.v1 import functions_pb2, jobs_pb2
from qonduit_service_kit.errors import ApiError
from starlette.responses import JSONResponse

from qonduit_gateway.api.callers import caller
from qonduit_gateway.api.run_requests import INLINE_ARGUMENTS_LIMIT_BYTES
from qonduit_gateway.rest import bodies, wording
from qonduit_gateway.rest.arguments import stored_digest
from qonduit_gateway.rest.job_lists import of_providers_asked_for
from qonduit_gateway.rest.names import function_name, name_in
from qonduit_gateway.rest.schemas import KEY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from starlette.requests import Request
    from starlette.responses import Response

    from qonduit_gateway.api.functions import FunctionService
    from qonduit_gateway.api.jobs import JobService
    from qonduit_gateway.api.run_jobs import JobIntake
    from qonduit_gateway.rest.providers import Providers

_LARGE_AT_ONCE = 2
_TOO_LARGE = "Take out of the working directory what the program does not need, or upload data as files."
_NO_IMAGES = (
    "Custom images are only available if you are a provider.",
    "Custom images are not taken here: send the working directory, and name packages as dependencies.",
)
_FILTERS = {
    None: functions_pb2.FUNCTION_FILTER_ALL,
    False: functions_pb2.FUNCTION_FILTER_OWN,
    True: functions_pb2.FUNCTION_FILTER_OF_PROVIDERS,
}


class Programs:
    """Takes functions in, tells about them, and runs them."""

    def __init__(
        self,
        functions: FunctionService,
        jobs: JobService,
        intake: JobIntake,
        people: Providers,
        *,
        artifact_limit_bytes: int,
    ) -> None:
        self._functions = functions
        self._jobs = jobs
        self._intake = intake
        self._people = people
        self._limit = artifact_limit_bytes
        self._large = asyncio.Semaphore(_LARGE_AT_ONCE)

    async def list(self, request: Request) -> Response:
        """List the caller's functions and those shared with them; also how a client finds out if its token is good."""
        wanted = functions_pb2.ListFunctionsRequest(filter=_FILTERS[of_providers_asked_for(request)])
        wanted.provider = request.query_params.get("provider", "").strip()
        return JSONResponse([wording.function(each) async for each in self._all(wanted)])

    async def get(self, request: Request) -> Response:
        """Return the function of a title."""
        found = await self.find(function_name(request.path_params["title"], request.query_params.get("provider")))
        return JSONResponse(wording.function(found))

    async def find(self, name: str) -> functions_pb2.Function:
        """Return the function of a name; ApiError if there is none for the caller."""
        answer = await self._functions.GetFunction(functions_pb2.GetFunctionRequest(title=name), None)
        return answer.function

    async def find_by_id(self, program_id: str) -> functions_pb2.Function:
        """Return the function of an id; ApiError if there is none for the caller."""
        wanted = functions_pb2.ListFunctionsRequest(filter=functions_pb2.FUNCTION_FILTER_ALL)
        async for each in self._all(wanted):
            if wording.function_id(each.owner, each.spec.title, each.provider) == program_id.strip().lower():
                return each
        metadata = {"function_title": program_id[:100]}
        raise ApiError(grpc.StatusCode.NOT_FOUND, "FUNCTION_NOT_FOUND", "There is no such id.", metadata=metadata)

    async def _all(self, wanted: functions_pb2.ListFunctionsRequest) -> AsyncIterator[functions_pb2.Function]:
        wanted.page_size = 1000
        while True:
            answer = await self._functions.ListFunctions(wanted, None)
            for each in answer.functions:
                yield each
            if not answer.next_page_token:
                return
            wanted.page_token = answer.next_page_token

    async def upload(self, request: Request) -> Response:
        """Take a function in: the fields of a form, and its working folder as the file `artifact`, a tar."""
        async with bodies.form(request, self._limit, _TOO_LARGE) as fields:
            name = name_in(fields)
            if bodies.text(fields, "image"):
                raise bodies.invalid(_NO_IMAGES["/" in name])
            if bodies.text(fields, "sizes") not in {"", "{}"}:
                raise bodies.invalid("Functions have no sizes here: leave sizes_map out.")
            artifact = await bodies.sent_file(fields, "artifact")
            if artifact is None:
                raise bodies.invalid("Send the working directory as a tar in the form's file `artifact`.")
            spec = _spec(name, fields, await self._before(name))
            header = functions_pb2.UploadFunctionHeader(
                spec=spec, artifact_digest=artifact.digest, artifact_bytes=artifact.size_bytes
            )
            first = functions_pb2.UploadFunctionRequest(header=header)
            messages = artifact.messages(first)
            async with self._people.people(name):
                answer = await self._functions.UploadFunction(messages, None)
        return JSONResponse(wording.uploaded(answer.function))

    async def run(self, request: Request) -> Response:
        """Run a function with arguments, a JSON text in the encoding of qiskit-ibm-runtime."""
        async with self._asked(request) as asked:
            return await self._run(asked, request.headers.get(KEY, ""))

    async def _run(self, asked: dict[str, Any], key: str) -> Response:
        title = name_in(asked)
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
                await self._intake.check(caller(), name_in(asked), arguments)
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

    async def _before(self, name: str) -> functions_pb2.FunctionSpec:
        """Return what the function is so far: an upload keeps what it does not speak of."""
        try:
            return (await self.find(name)).spec
        except ApiError as error:
            if error.code is not grpc.StatusCode.NOT_FOUND:
                raise
            return functions_pb2.FunctionSpec()


def _spec(name: str, fields: Mapping[str, Any], before: functions_pb2.FunctionSpec) -> functions_pb2.FunctionSpec:
    def kept(name: str, value: str) -> str:
        return bodies.text(fields, name) if name in fields else value

    schema = kept("arguments_schema", before.arguments_schema)
    variables = bodies.json_field(fields, "env_vars", dict, {})
    return functions_pb2.FunctionSpec(
        title=name,
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
