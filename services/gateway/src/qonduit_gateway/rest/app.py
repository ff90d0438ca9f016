"""The routes, and the application that they make."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Route

from qonduit_gateway.rest.calls import refuse

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

    from qonduit_gateway.rest.calls import RestCalls
    from qonduit_gateway.rest.files import Files
    from qonduit_gateway.rest.jobs import Jobs
    from qonduit_gateway.rest.programs import Programs

PREFIX = "/api/v1"
_PARAMETER = re.compile(r"{(\w+)}")
_NO_PROVIDERS = "Functions of providers, their files and their jobs are not offered by this server yet."
_NOT_FROM_PROGRAMS = (
    "Programs tell of themselves by the qiskit_serverless that is there for them, not by this address: take "
    "qiskit-serverless out of the function's dependencies."
)


@dataclass(frozen=True, slots=True)
class Operation:
    """A method of a path."""

    method: str
    path: str
    handler: Callable[[Request], Awaitable[Response]]

    @property
    def name(self) -> str:
        """What metrics and spans call it."""
        return f"{self.method} {PREFIX}{self.path}"


def operations(programs: Programs, jobs: Jobs, files: Files) -> list[Operation]:
    """Return all that can be asked for. What comes first is what a path is taken for."""
    return [
        Operation("GET", "/programs", programs.list),
        Operation("POST", "/programs/upload", programs.upload),
        Operation("POST", "/programs/run", programs.run),
        Operation("POST", "/programs/validate_arguments", programs.validate),
        Operation("GET", "/programs/get_by_title/{title:path}", programs.get),
        Operation("GET", "/dependencies-versions", programs.dependencies),
        Operation("GET", "/jobs", jobs.list),
        Operation("GET", "/jobs/provider", _no_providers),
        Operation("GET", "/jobs/{job_id}", jobs.get),
        Operation("GET", "/jobs/{job_id}/result", jobs.result),
        Operation("POST", "/jobs/{job_id}/result", _not_from_programs),
        Operation("GET", "/jobs/{job_id}/logs", jobs.logs),
        Operation("GET", "/jobs/{job_id}/provider-logs", jobs.provider_logs),
        Operation("GET", "/jobs/{job_id}/events", jobs.events),
        Operation("POST", "/jobs/{job_id}/event", _not_from_programs),
        Operation("PATCH", "/jobs/{job_id}/sub_status", _not_from_programs),
        Operation("GET", "/jobs/{job_id}/runtime_jobs", jobs.runtime_jobs),
        Operation("POST", "/jobs/{job_id}/runtime_jobs", _not_from_programs),
        Operation("POST", "/jobs/{job_id}/stop", jobs.stop),
        Operation("GET", "/files", files.list),
        Operation("POST", "/files/upload", files.upload),
        Operation("GET", "/files/download", files.download),
        Operation("DELETE", "/files/delete", files.delete),
        Operation("GET", "/files/provider", _no_providers),
        Operation("POST", "/files/provider/upload", _no_providers),
        Operation("GET", "/files/provider/download", _no_providers),
        Operation("DELETE", "/files/provider/delete", _no_providers),
    ]


def application(offered: Sequence[Operation], calls: RestCalls) -> ASGIApp:
    """Return the application."""
    routes = [
        Route(PREFIX + each.path, calls.endpoint(each.name, each.handler), methods=[each.method]) for each in offered
    ]
    document = openapi(offered)

    async def described(_request: Request) -> Response:
        return JSONResponse(document)

    routes.append(Route(f"{PREFIX}/openapi.json", described))
    app = Starlette(routes=routes, exception_handlers={HTTPException: refuse})
    app.router.redirect_slashes = False
    return _without_last_slash(app)


def _without_last_slash(app: ASGIApp) -> ASGIApp:
    """Take a path with and without a last slash for the same: a redirect would turn that client's POST into GET."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "path": scope["path"].rstrip("/") or "/"}
        await app(scope, receive, send)

    return call


def openapi(offered: Sequence[Operation]) -> dict[str, Any]:
    """Return the description of all routes in OpenAPI, from what they themselves say."""
    paths: dict[str, dict[str, Any]] = {}
    for each in offered:
        path = PREFIX + each.path.replace(":path", "")
        parameters = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in _PARAMETER.findall(path)
        ]
        paths.setdefault(path, {})[each.method.lower()] = {
            "summary": (each.handler.__doc__ or "").splitlines()[0],
            "parameters": parameters,
            "responses": {
                "200": {"description": "It is done."},
                "default": {
                    "description": "A refusal: an object whose values say why.",
                    "content": {"application/json": {"schema": {"type": "object"}}},
                },
            },
        }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Qonduit, as clients of Qiskit Serverless speak to it", "version": "v1"},
        "security": [{"token": []}],
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "paths": paths,
    }


async def _no_providers(_request: Request) -> Response:
    """Refuse what belongs to functions of providers."""
    return JSONResponse({"message": _NO_PROVIDERS}, 404)


async def _not_from_programs(_request: Request) -> Response:
    """Refuse what that client's own package tells from within programs."""
    return JSONResponse({"message": _NOT_FROM_PROGRAMS}, 404)
