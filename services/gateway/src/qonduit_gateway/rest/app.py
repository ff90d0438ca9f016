"""The routes, and the application that they make."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Route

from qonduit_gateway import __version__
from qonduit_gateway.rest.calls import refuse
from qonduit_gateway.rest.openapi import PREFIX, Operation, document
from qonduit_gateway.rest.schemas import KEY

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from qonduit_gateway.rest.calls import RestCalls
    from qonduit_gateway.rest.files import Files
    from qonduit_gateway.rest.job_lists import JobLists
    from qonduit_gateway.rest.jobs import Jobs
    from qonduit_gateway.rest.programs import Programs

_NOT_FROM_PROGRAMS = (
    "Programs tell of themselves at the address in their environment (ENV_JOB_GATEWAY_HOST), where the token beside it "
    "is theirs, not at this one."
)


def operations(programs: Programs, lists: JobLists, jobs: Jobs, files: Files, provider_files: Files) -> list[Operation]:
    """Return all that can be asked for. What comes first is what a path is taken for."""
    page = ("limit", "offset", "status", "created_after", "function", "provider")
    named = ("function", "provider")
    return [
        Operation("GET", "/programs", programs.list, "Programs", asks=("filter", "provider")),
        Operation("POST", "/programs/upload", programs.upload, "UploadedProgram", "UploadForm"),
        Operation("POST", "/programs/run", programs.run, "AcceptedJob", "Run", (KEY,)),
        Operation("POST", "/programs/validate_arguments", programs.validate, "Valid", "Arguments"),
        Operation("GET", "/programs/get_by_title/{title:path}", programs.get, "Program", asks=("provider",)),
        Operation("GET", "/programs/{program_id}/get_jobs", lists.of_program, "Jobs"),
        Operation("GET", "/dependencies-versions", programs.dependencies, "Packages"),
        Operation("GET", "/jobs", lists.list, "JobPage", asks=(*page, "filter")),
        Operation("GET", "/jobs/provider", lists.of_provider, "JobPage", asks=page),
        Operation("GET", "/jobs/{job_id}", jobs.get, "Job", asks=("with_result",)),
        Operation("GET", "/jobs/{job_id}/result", jobs.result, "Result"),
        Operation("POST", "/jobs/{job_id}/result", _not_from_programs),
        Operation("GET", "/jobs/{job_id}/logs", jobs.logs, "Logs"),
        Operation("GET", "/jobs/{job_id}/provider-logs", jobs.provider_logs, "Logs"),
        Operation("GET", "/jobs/{job_id}/events", jobs.events, "Events", asks=("type",)),
        Operation("POST", "/jobs/{job_id}/event", _not_from_programs),
        Operation("PATCH", "/jobs/{job_id}/sub_status", _not_from_programs),
        Operation("GET", "/jobs/{job_id}/runtime_jobs", jobs.runtime_jobs, "RuntimeJobs"),
        Operation("POST", "/jobs/{job_id}/runtime_jobs", _not_from_programs),
        Operation("POST", "/jobs/{job_id}/stop", jobs.stop, "Message", "Stop"),
        *_of_files("/files", files, named),
        *_of_files("/files/provider", provider_files, named),
    ]


def _of_files(path: str, files: Files, named: tuple[str, ...]) -> list[Operation]:
    return [
        Operation("GET", path, files.list, "FileNames", asks=named),
        Operation("POST", f"{path}/upload", files.upload, "Message", "FileForm", named),
        Operation("GET", f"{path}/download", files.download, asks=("file", *named)),
        Operation("DELETE", f"{path}/delete", files.delete, "Message", asks=("file", *named)),
    ]


def application(offered: Sequence[Operation], calls: RestCalls, serving: Callable[[], bool]) -> ASGIApp:
    """Return the application. `serving` tells whether the gateway does, as its health service says."""
    described = JSONResponse(document(offered))
    app = Starlette(
        routes=[
            *(
                Route(PREFIX + each.path, calls.endpoint(each.name, each.handler), methods=[each.method])
                for each in offered
            ),
            *(Route(path, _always(described)) for path in (f"{PREFIX}/openapi.json", "/swagger.json")),
            # What deployments of Qiskit Serverless probe; no token is asked for.
            Route("/readiness", _ready(serving)),
            Route("/liveness", _always(JSONResponse({"status": "ok"}))),
            Route("/version", _always(JSONResponse({"version": __version__}))),
        ],
        exception_handlers={HTTPException: refuse},
    )
    app.router.redirect_slashes = False
    return _timed(_without_last_slash(app))


def _always(answer: Response) -> Callable[[Request], Awaitable[Response]]:
    async def answered(_request: Request) -> Response:
        return answer

    return answered


def _ready(serving: Callable[[], bool]) -> Callable[[Request], Awaitable[Response]]:
    async def ready(_request: Request) -> Response:
        return JSONResponse({"status": "ok"}) if serving() else JSONResponse({"status": "not serving"}, 503)

    return ready


def _without_last_slash(app: ASGIApp) -> ASGIApp:
    """Take a path with and without a last slash for the same: a redirect would turn that client's POST into GET."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "path": scope["path"].rstrip("/") or "/"}
        await app(scope, receive, send)

    return call


def _timed(app: ASGIApp) -> ASGIApp:
    """Tell in each answer how long it took here (`Server-Timing`): from the request's head to the answer's."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()

        async def timed(message: Message) -> None:
            if message["type"] == "http.response.start":
                took = f"total;dur={(time.perf_counter() - began) * 1000:.2f}"
                message = {**message, "headers": [*message["headers"], (b"server-timing", took.encode())]}
            await send(message)

        await app(scope, receive, timed)

    return call


async def _not_from_programs(_request: Request) -> Response:
    """Refuse what that client's own package tells from within programs."""
    return JSONResponse({"message": _NOT_FROM_PROGRAMS}, 404)
