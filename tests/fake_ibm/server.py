"""The whole service on a loopback port."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aiohttp import web
from qonduit_qpu_broker.local.catalog import UnknownDeviceError

from fake_ibm.cloud import Cloud
from fake_ibm.faults import Fault, refusal
from fake_ibm.quantum import BASE, INSTANCE, Quantum
from fake_ibm.state import Instance

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler

DEVICES: Final = ("ibm_torino", "ibm_fez", "ibmq_manila")
_MOST_BYTES: Final = 128 * 1024**2


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as it came."""

    method: str
    path: str
    """Without the base."""
    authorization: str
    api_version: str
    body_bytes: int


class FakeIbm:
    """IBM's service, as far as the broker and the real client use it.

    Attributes:
        seen: Every request, in order; those for identity, search and catalog with their whole path.
        faults: What goes wrong, the first that matches a request first.
    """

    def __init__(self, *instances: Instance, devices: tuple[str, ...] = DEVICES) -> None:
        self.instances = instances or (Instance(),)
        self.cloud = Cloud(self.instances)
        self.quantum = Quantum(devices)
        self.faults: list[Fault] = []
        self.seen: list[Seen] = []
        self.port = 0
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """What stands for https://cloud.ibm.com."""
        return f"http://127.0.0.1:{self.port}{BASE}"

    def environment(self, *, api_key: str = "", instance: str = "") -> dict[str, str]:
        """Return the variables with which the real client talks to it directly."""
        root = f"http://127.0.0.1:{self.port}"
        return {
            "QISKIT_IBM_TOKEN": api_key or next(iter(self.instances[0].api_keys)),
            "QISKIT_IBM_URL": self.url,
            "QISKIT_IBM_INSTANCE": instance or self.instances[0].crn,
            "QISKIT_IBM_CHANNEL": "ibm_quantum_platform",
            "IAM_URL": root,
            "GLOBAL_SEARCH_URL": root,
            "GLOBAL_CATALOG_URL": f"{root}/catalog",
            "NO_PROXY": "127.0.0.1",
            "USAGE_DATA_OPT_OUT": "True",
        }

    def hosts(self) -> dict[str, str]:
        """Return the variables that lead a client with an account of its own to the identity service."""
        names = ("IAM_URL", "GLOBAL_SEARCH_URL", "GLOBAL_CATALOG_URL", "NO_PROXY")
        return {name: value for name, value in self.environment().items() if name in names}

    def forget(self) -> None:
        """Be as new, but for what runs."""
        self.faults.clear()
        self.seen.clear()
        self.quantum.forget()

    def counts(self) -> Counter[tuple[str, str]]:
        """Return how often each kind of request came, by method and first part of the path."""
        return Counter((seen.method, seen.path.strip("/").split("/")[0]) for seen in self.seen)

    async def start(self, *more: web.RouteDef) -> None:
        """Serve on a free loopback port, with more routes if there are any."""
        application = web.Application(client_max_size=_MOST_BYTES, middlewares=[self._guard])
        application.add_routes([*self.cloud.routes(), *self.quantum.routes(), *more])
        self._runner = web.AppRunner(application, handle_signals=False, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """End; safe to call twice."""
        await self.quantum.running.stop()
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        path = request.path.removeprefix(BASE)
        headers = request.headers
        self.seen.append(
            Seen(
                request.method,
                path,
                headers.get("Authorization", ""),
                headers.get("IBM-API-Version", ""),
                request.content_length or 0,
            )
        )
        for fault in self.faults:
            if fault.matches(request, path):
                return await fault.answer(request, lambda _: self._answer(request, handler))
        return await self._answer(request, handler)

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.startswith(BASE):
            instance = self.cloud.instance_of(request)
            if instance is None:
                return refusal(401, "Unauthorized.")
            request[INSTANCE] = instance
        try:
            return await handler(request)
        except UnknownDeviceError as error:
            return refusal(404, f"Backend {error} not found.", code=1004)
        except web.HTTPNotFound as error:
            return refusal(404, error.reason, code=1291)
