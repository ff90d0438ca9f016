"""The HTTP side: what is answered here, and what goes to the broker."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import nullcontext
from typing import TYPE_CHECKING, Final

from aiohttp import web
from qonduit_service_kit.logs import get_logger

from qonduit_worker.qpu_endpoint import identity as identities
from qonduit_worker.qpu_endpoint.broker_calls import BrokerGoneError, Call
from qonduit_worker.qpu_endpoint.call_numbers import CallNumbers
from qonduit_worker.qpu_endpoint.problems import problem, unauthorized, unknown_api_key

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from aiohttp.typedefs import Handler

    from qonduit_worker.qpu_endpoint.broker_calls import BrokerCalls, Received
    from qonduit_worker.qpu_endpoint.device_cache import DeviceCache
    from qonduit_worker.qpu_endpoint.identity import Identity
    from qonduit_worker.qpu_endpoint.job_table import JobTable

MAX_BODY_BYTES: Final = 64 * 1024**2
_BIG_BODY_BYTES: Final = 64 * 1024
_BIG_BODIES: Final = 4
"""How many larger bodies are held at a time: a program must not fill the agent's memory."""
_VERSION_LENGTH: Final = 32
_SERVER_ERROR: Final = 500
_log = get_logger("qpu-endpoint")


class Routes:
    """Answers one program's client."""

    def __init__(
        self, identity: Identity, calls: BrokerCalls, jobs: JobTable, devices: DeviceCache, *, budget_s: float | None
    ) -> None:
        self._budget_s = budget_s
        self._identity = identity
        self._calls = calls
        self._jobs = jobs
        self._devices = devices
        self._numbers = CallNumbers()
        self._big_bodies = asyncio.Semaphore(_BIG_BODIES)

    def application(self) -> web.Application:
        """Return the application with all its routes."""
        application = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[self._guard])
        application.router.add_post("/identity/token", self._token)
        application.router.add_post("/v3/resources/search", self._search)
        application.router.add_get(identities.CATALOG + "/{plan:.*}", self._catalog)
        application.router.add_get(identities.BASE + "/instances/usage", self._usage)
        application.router.add_get(identities.BASE + "/backends{rest:.*}", self._device)
        application.router.add_get(identities.BASE + "/jobs/{qpu_job_id}", self._job)
        application.router.add_post(identities.BASE + "/{collection:jobs|sessions}", self._post)
        application.router.add_route("*", identities.BASE + "/{rest:.*}", self._forward)
        return application

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let only the program's own token in, and answer every failure in the API's shape."""
        if request.path != "/identity/token" and not self._identity.admits(request.headers.get("Authorization", "")):
            return unauthorized()
        try:
            async with self._room(request):
                return await handler(request)
        except BrokerGoneError:
            return problem(503, "This program is being stopped.")
        except web.HTTPRequestEntityTooLarge:
            return problem(413, f"A job is at most {MAX_BODY_BYTES} bytes.", solution="Split it into several jobs.")
        except web.HTTPException as error:
            return problem(error.status, f"{request.method} {request.path}: {error.reason}")
        except Exception:  # noqa: BLE001 -- the program gets an answer, the log gets the traceback.
            _log.exception("a request failed", method=request.method, path=request.path)
            return problem(503, "The QPU endpoint could not answer; try again.")

    def _room(self, request: web.Request) -> AbstractAsyncContextManager[object]:
        """Return what is held while a request is answered; those with a large body wait for one another."""
        if not request.can_read_body or (request.content_length or _BIG_BODY_BYTES + 1) <= _BIG_BODY_BYTES:
            return nullcontext()
        return self._big_bodies

    # --- Answered here -------------------------------------------------------------------------

    async def _token(self, request: web.Request) -> web.Response:
        form = await request.post()
        # A key that a program brought along is neither kept, nor logged, nor passed on.
        if not self._identity.knows(str(form.get("apikey", ""))):
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
        return _response(await self._devices.get(key, lambda: self._calls.call(call)))

    async def _job(self, request: web.Request) -> web.Response:
        if request.query.get("exclude_params", "").lower() != "true":
            return await self._forward(request)
        call = _call_of(request)
        return _response(await self._jobs.poll(request.match_info["qpu_job_id"], lambda: self._calls.call(call)))

    # --- Answered by the broker ----------------------------------------------------------------

    async def _post(self, request: web.Request) -> web.Response:
        """Forward a submission under its number, so that the broker takes it once."""
        body = await request.read()
        digest = hashlib.sha256(body).hexdigest()
        call = _call_of(request, body)
        number = self._numbers.take(call.path, digest)
        status = _SERVER_ERROR
        try:
            received = await self._calls.call(
                Call(call.method, call.path, call.query, call.api_version, body, call_number=number)
            )
            status = received.status
        finally:
            if status >= _SERVER_ERROR:
                self._numbers.give_back(call.path, digest, number)
        return _response(received)

    async def _forward(self, request: web.Request) -> web.Response:
        body = await request.read() if request.can_read_body else None
        call = _call_of(request, body)
        received = await self._calls.call(call)
        if request.method != "GET" and call.path.startswith("/jobs/"):
            self._jobs.touch(call.path.split("/")[2])
        return _response(received)


def _call_of(request: web.Request, body: bytes | None = None) -> Call:
    return Call(
        method=request.method,
        path=request.path.removeprefix(identities.BASE),
        query=tuple(request.query.items()),
        api_version=request.headers.get("IBM-API-Version", "")[:_VERSION_LENGTH],
        body=body,
    )


def _response(received: Received) -> web.Response:
    """Return an answer with its bytes as they came."""
    return web.Response(status=received.status, body=received.body, headers={"Content-Type": received.content_type})
