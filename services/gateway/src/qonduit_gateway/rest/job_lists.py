"""Lists of jobs: the caller's, and those of a provider's function for the provider's people."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from qonduit_api.v1 import jobs_pb2, providers_pb2
from qonduit_service_kit.errors import ApiError
from starlette.responses import JSONResponse

from qonduit_gateway.rest import bodies, names, wording

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from starlette.requests import Request
    from starlette.responses import Response

    from qonduit_gateway.api.jobs import JobService
    from qonduit_gateway.api.providers import ProviderService
    from qonduit_gateway.rest.programs import Programs
    from qonduit_gateway.rest.providers import Providers

    Answer = jobs_pb2.ListJobsResponse | providers_pb2.ListProviderJobsResponse

_PAGE = 1000
_DEFAULT_LIMIT = 100
_MOST_DIGITS = 9
_OF_PROVIDERS = {"": None, "serverless": False, "catalog": True}


class JobLists:
    """Lists jobs, newest first."""

    def __init__(self, jobs: JobService, providers: ProviderService, programs: Programs, people: Providers) -> None:
        self._jobs = jobs
        self._providers = providers
        self._programs = programs
        self._people = people

    async def list(self, request: Request) -> Response:
        """List a page of the caller's jobs, newest first."""
        wanted = jobs_pb2.ListJobsRequest()
        of_providers = of_providers_asked_for(request)
        if name := names.name_asked_for(request):
            found = await self._programs.find(name)
            wanted.function_title = wording.full_name(found.provider, found.spec.title)
        return await _page(request, wanted, lambda: self._jobs.list_of(wanted, of_providers=of_providers))

    async def of_provider(self, request: Request) -> Response:
        """List a page of the jobs of a provider's function, whoever runs them, for the provider's people."""
        name = names.of_provider_asked_for(request)
        wanted = providers_pb2.ListProviderJobsRequest(function=name)
        async with self._people.people(name):
            return await _page(request, wanted, lambda: self._providers.ListProviderJobs(wanted, None))

    async def of_program(self, request: Request) -> Response:
        """List the jobs of the function of an id: the caller's, or everybody's for its provider's people."""
        function = await self._programs.find_by_id(str(request.path_params["program_id"]))
        name = wording.full_name(function.provider, function.spec.title)
        own = jobs_pb2.ListJobsRequest(function_title=name)
        everybodys = providers_pb2.ListProviderJobsRequest(function=name)
        if function.provider:
            try:
                found = await _all(everybodys, lambda: self._providers.ListProviderJobs(everybodys, None))
                return JSONResponse([*map(wording.job, found)])
            except ApiError as error:
                if error.code is not grpc.StatusCode.PERMISSION_DENIED:
                    raise
        return JSONResponse([*map(wording.job, await _all(own, lambda: self._jobs.list_of(own)))])


def of_providers_asked_for(request: Request) -> bool | None:
    """Return whether a query wants functions of providers, or own ones, alone; None for both."""
    sent = request.query_params.get("filter", "").strip()
    if sent not in _OF_PROVIDERS:
        raise bodies.invalid(f"filter must be serverless or catalog, or left out, and is {sent[:50]!r}.")
    return _OF_PROVIDERS[sent]


async def _all(wanted: Any, ask: Callable[[], Awaitable[Answer]]) -> list[jobs_pb2.Job]:
    """Return all jobs that there are, however many."""
    return (await _some(wanted, ask, 0))[0]


async def _some(wanted: Any, ask: Callable[[], Awaitable[Answer]], limit: int) -> tuple[list[jobs_pb2.Job], int]:
    """Return so many jobs, 0 for all, and how many there are."""
    found: list[jobs_pb2.Job] = []
    total = 0
    while True:
        wanted.page_size = min(limit - len(found), _PAGE) if limit else _PAGE
        answer = await ask()
        total = total or answer.total
        found += answer.jobs
        if not answer.next_page_token or (limit and len(found) >= limit):
            return found, total
        wanted.page_token, wanted.skip, wanted.count = answer.next_page_token, 0, False


async def _page(request: Request, wanted: Any, ask: Callable[[], Awaitable[Answer]]) -> Response:
    """Answer with the page that a query asks for."""
    asked = request.query_params
    limit, offset = _number(asked, "limit", _DEFAULT_LIMIT), _number(asked, "offset", 0)
    wanted.skip, wanted.count = offset, True
    if after := asked.get("created_after", "").strip():
        wanted.created_after.CopyFrom(_time(after))
    status = asked.get("status", "").strip()
    states = wording.states_of(status) if status else []
    found: list[jobs_pb2.Job] = []
    total = 0
    if states is None:
        await _some(wanted, ask, 1)  # No job is in such a state; who may not ask is told so all the same.
    else:
        wanted.states.extend(states)
        found, total = await _some(wanted, ask, limit)

    def link(at: int) -> str:
        return str(request.url.include_query_params(limit=limit, offset=at))

    more = limit and offset + len(found) < total
    body = {
        "count": total,
        "next": link(offset + limit) if more else None,
        "previous": link(max(offset - limit, 0)) if limit and offset else None,
        "results": [*map(wording.job, found)],
    }
    return JSONResponse(body)


def _number(asked: Mapping[str, str], name: str, default: int) -> int:
    sent = asked.get(name, "").strip()
    if not sent:
        return default
    if not sent.isascii() or not sent.isdigit() or len(sent) > _MOST_DIGITS:
        raise bodies.invalid(f"{name} must be a whole number, 0 or more, and is {sent[:50]!r}.")
    return int(sent)


def _time(sent: str) -> Timestamp:
    """Read a time as that client writes one: ISO, with a blank or a T in the middle; without a zone it is UTC."""
    made = Timestamp()
    try:
        read = datetime.fromisoformat(sent)
        made.FromDatetime(read if read.tzinfo else read.replace(tzinfo=UTC))
    except ValueError as error:
        raise bodies.invalid(
            f"created_after must be a time such as 2026-01-31T12:00:00Z, and is {sent[:50]!r}."
        ) from error
    return made
