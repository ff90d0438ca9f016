"""The HTTP side: what is answered here, and what goes to the broker."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import nullcontext
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs

from aiohttp import web
from qonduit_service_kit.logs import get_logger

from qonduit_worker.qpu_endpoint import identity as identities
from qonduit_worker.qpu_endpoint import job_routes
from qonduit_worker.qpu_endpoint.answers import in_memory, streamed
from qonduit_worker.qpu_endpoint.bodies import (
    MAX_JOB_BYTES,
    MAX_OTHER_BYTES,
    Body,
    EncodedBodyError,
    TooLargeError,
    received,
)
from qonduit_worker.qpu_endpoint.broker_calls import BrokerGoneError, Call
from qonduit_worker.qpu_endpoint.call_numbers import CallNumbers
from qonduit_worker.qpu_endpoint.problems import problem, unauthorized, unknown_api_key

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from aiohttp.typedefs import Handler

    from qonduit_worker.qpu_endpoint.broker_calls import Blobs, BrokerCalls
    from qonduit_worker.qpu_endpoint.device_cache import DeviceCache
    from qonduit_worker.qpu_endpoint.identity import Identity
    from qonduit_worker.qpu_endpoint.job_routes import JobRoutes
    from qonduit_worker.qpu_endpoint.job_table import JobTable
    from qonduit_worker.qpu_endpoint.workloads import Workloads

_BIG_BODIES: Final = 4
"""How many larger bodies are received at a time: a program must not fill the worker's disk."""
_PATH: Final = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9_.~:@-]+)+")
"""What the API's paths are made of; nothing else reaches the broker, so that each reader reads them alike."""
_VERSION_LENGTH: Final = 32
_REFUSED: Final = 400
_log = get_logger("qpu-endpoint")


class Routes:
    """Answers one program's client."""

    def __init__(
        self,
        *,
        identity: Identity,
        calls: BrokerCalls,
        jobs: JobTable,
        devices: DeviceCache,
        blobs: Blobs,
        workloads: Workloads,
        own_job: JobRoutes,
        budget_s: float | None,
    ) -> None:
        self._budget_s = budget_s
        self._identity = identity
        self._calls = calls
        self._jobs = jobs
        self._devices = devices
        self._blobs = blobs
        self._workloads = workloads
        self._own_job = own_job
        self._numbers = CallNumbers()
        self._big_bodies = asyncio.Semaphore(_BIG_BODIES)

    def application(self) -> web.Application:
        """Return the application with all its routes."""
        application = web.Application(middlewares=[self._guard], client_max_size=job_routes.MAX_RESULT_BYTES)
        application.router.add_post("/identity/token", self._token)
        application.router.add_post("/v3/resources/search", self._search)
        application.router.add_get(identities.CATALOG + "/{plan:.*}", self._catalog)
        application.router.add_get(identities.BASE + "/instances/usage", self._usage)
        # A HEAD is another question, which must not be answered from what all sandboxes share.
        application.router.add_get(identities.BASE + "/backends{rest:.*}", self._device, allow_head=False)
        application.router.add_get(identities.BASE + "/jobs/{qpu_job_id}", self._job, allow_head=False)
        application.router.add_get(identities.BASE + "/workloads", self._list_workloads)
        application.router.add_post(identities.BASE + "/{collection:jobs|sessions}", self._post)
        application.router.add_route("*", identities.BASE + "/{rest:.*}", self._forward)
        return application

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let only the program's own token in, and answer every failure in the API's shape."""
        if request.path.startswith(job_routes.PREFIX):
            return await self._answer_of_job(request)
        if request.path != "/identity/token" and not self._identity.admits(request.headers.get("Authorization", "")):
            return unauthorized()
        if not _PATH.fullmatch(request.rel_url.raw_path):
            return problem(404, "There is nothing at this path.")
        try:
            async with self._room(request):
                return await handler(request)
        except ConnectionError:
            raise  # Whoever asked is gone.
        except Exception as error:  # noqa: BLE001 -- the program gets an answer, the log gets the traceback.
            if (refusal := _refusal_of(error)) is not None:
                return refusal
            _log.exception("a request failed", method=request.method, path=request.path)
            return problem(503, "The QPU endpoint could not answer; try again.")

    async def _answer_of_job(self, request: web.Request) -> web.StreamResponse:
        """Answer what is asked of the job itself, with refusals as the client of Qiskit Serverless reads them."""
        if not self._identity.is_bearer(request.headers.get("Authorization", "")):
            return job_routes.unauthorized()
        try:
            async with self._room(request):
                return await self._own_job.answer(request)
        except web.HTTPRequestEntityTooLarge:
            return job_routes.refusal(413, f"A body has at most {job_routes.MAX_RESULT_BYTES:,} bytes here.")
        except BrokerGoneError:
            return job_routes.refusal(503, "This program is being stopped.")
        except ConnectionError:
            raise  # Whoever asked is gone.
        except Exception:  # noqa: BLE001 -- the program gets an answer, the log gets the traceback.
            _log.exception("a request failed", method=request.method, path=request.path)
            return job_routes.refusal(503, "The worker could not answer; try again.")

    def _room(self, request: web.Request) -> AbstractAsyncContextManager[object]:
        """Return what is held while a request is answered; those with a large body wait for one another."""
        if not request.can_read_body or (request.content_length or MAX_OTHER_BYTES + 1) <= MAX_OTHER_BYTES:
            return nullcontext()
        return self._big_bodies

    # --- Answered here -------------------------------------------------------------------------

    async def _token(self, request: web.Request) -> web.Response:
        async with received(request, self._blobs.new_part, MAX_OTHER_BYTES) as body:
            form = parse_qs((body.data or b"").decode())
        # A key that a program brought along is neither kept, nor logged, nor passed on.
        if not self._identity.knows(form.get("apikey", [""])[0]):
            return unknown_api_key()
        return web.json_response(self._identity.access_token())

    async def _search(self, _request: web.Request) -> web.Response:
        return web.json_response(identities.search_document())

    async def _catalog(self, _request: web.Request) -> web.Response:
        return web.json_response(identities.catalog_document())

    async def _usage(self, _request: web.Request) -> web.Response:
        return web.json_response(identities.usage_document(self._jobs.consumed_s, self._budget_s))

    async def _device(self, request: web.Request) -> web.Response:
        call = _call_of(request)
        key = (call.path, call.query, call.api_version)
        return in_memory(await self._devices.get(key, lambda: self._calls.whole(call)))

    async def _job(self, request: web.Request) -> web.StreamResponse:
        if request.query.get("exclude_params", "").lower() != "true":
            return await self._forward(request)
        call = _call_of(request)
        return in_memory(await self._jobs.poll(request.match_info["qpu_job_id"], lambda: self._calls.whole(call)))

    async def _list_workloads(self, request: web.Request) -> web.Response:
        try:
            return web.json_response(await self._workloads.answer(request.query, _version_of(request)))
        except ValueError as error:
            return problem(400, f"The filter can't be read: {error}")

    # --- Answered by the broker ----------------------------------------------------------------

    async def _post(self, request: web.Request) -> web.StreamResponse:
        """Forward a submission under its number, so that the broker takes it once."""
        most_bytes = MAX_JOB_BYTES if request.match_info["collection"] == "jobs" else MAX_OTHER_BYTES
        async with received(request, self._blobs.new_part, most_bytes) as body:
            path = request.path.removeprefix(identities.BASE)
            number = self._numbers.take(path, body.digest, lambda: _is_gone(request))
            done = False
            try:
                answer = await self._calls.call(_call_of(request, body, number.value))
                done = answer.status < _REFUSED and not _is_gone(request)
            finally:
                self._numbers.settle(number, answered=done)
        if path == "/sessions" and answer.status < _REFUSED:
            self._workloads.note_opened(json.loads(answer.body)["id"])
        return await streamed(request, answer, self._blobs)

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        has_body = request.can_read_body  # Not any more, once it is read.
        async with received(request, self._blobs.new_part, MAX_OTHER_BYTES) as body:
            call = _call_of(request, body if has_body else None)
            answer = await self._calls.call(call)
        if request.method != "GET" and call.path.startswith("/jobs/"):
            self._jobs.touch(call.path.split("/")[2])
        return await streamed(request, answer, self._blobs)


def _refusal_of(error: Exception) -> web.Response | None:
    """Return the answer to what is wrong with a request, or None for a fault of ours."""
    match error:
        case BrokerGoneError():
            return problem(503, "This program is being stopped.")
        case TooLargeError():
            return problem(413, str(error), solution="Split the job into several.")
        case EncodedBodyError():
            return problem(415, "Compressed bodies are not taken.", solution="Send the body as it is.")
        case UnicodeError():
            return problem(400, "The request has text in it that is no UTF-8.")
        case web.HTTPException():
            return problem(error.status, error.reason)
        case _:
            return None


def _is_gone(request: web.Request) -> bool:
    """Whether whoever asked has closed the connection."""
    return request.transport is None or request.transport.is_closing()


def _version_of(request: web.Request) -> str:
    return request.headers.get("IBM-API-Version", "")[:_VERSION_LENGTH]


def _call_of(request: web.Request, body: Body | None = None, number: int = 0) -> Call:
    return Call(
        method=request.method,
        path=request.path.removeprefix(identities.BASE),
        query=tuple(request.query.items()),
        api_version=_version_of(request),
        body=body,
        call_number=number,
    )
