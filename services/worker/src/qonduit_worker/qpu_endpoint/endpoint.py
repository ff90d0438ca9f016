"""One program's endpoint: started on a listener inside its sandbox, stopped with it."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from aiohttp import web

from qonduit_worker.qpu_endpoint import identity as identities
from qonduit_worker.qpu_endpoint.broker_calls import Blobs, BrokerCalls
from qonduit_worker.qpu_endpoint.connections import listen
from qonduit_worker.qpu_endpoint.context import ProgramContext
from qonduit_worker.qpu_endpoint.job_routes import JobRoutes
from qonduit_worker.qpu_endpoint.job_table import JobTable
from qonduit_worker.qpu_endpoint.routes import Routes
from qonduit_worker.qpu_endpoint.workloads import Workloads

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Awaitable, Callable

    from qonduit_service_kit.messages import QpuReply, QpuTransition

    from qonduit_worker.qpu_endpoint.broker_calls import Publisher
    from qonduit_worker.qpu_endpoint.device_cache import DeviceCache
    from qonduit_worker.qpu_endpoint.job_routes import JobWords

__all__ = ["Blobs", "ProgramContext", "QpuEndpoint"]

_STOP_TIMEOUT_S = 1.0


class QpuEndpoint:
    """What the real client of one program talks to.

    The port is chosen before the program exists, because its environment names it: inside a network namespace of its
    own any port is free, elsewhere the agent binds the listener first and gives its port. `on_transition` hears each
    step of each QPU job once and in order. `words` takes what the program says of its job; a task has none.
    """

    def __init__(
        self,
        *,
        port: int,
        bus: Publisher,
        blobs: Blobs,
        context: ProgramContext,
        devices: DeviceCache,
        on_transition: Callable[[QpuTransition], Awaitable[None]],
        words: JobWords | None = None,
    ) -> None:
        self._port = port
        self._context = context
        self._identity = identities.Identity(context.job_id)
        self._calls = BrokerCalls(bus, blobs, context)
        self._jobs = JobTable()
        workloads = Workloads(self._calls, context.user)
        self._routes = Routes(
            identity=self._identity,
            calls=self._calls,
            jobs=self._jobs,
            devices=devices,
            blobs=blobs,
            workloads=workloads,
            own_job=JobRoutes(context.job_id, words, workloads),
            budget_s=context.qpu_budget_s,
        )
        self._on_transition = on_transition
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None

    def environment(self) -> dict[str, str]:
        """Return the variables that bring the program's client here."""
        return identities.environment(self._port, self._identity.token)

    async def start(self, listener: socket.socket | None) -> None:
        """Serve on a listening TCP socket, which is the endpoint's from now on; without one its program is over."""
        if listener is None:
            return
        runner = web.AppRunner(
            self._routes.application(),
            handle_signals=False,
            access_log=None,
            shutdown_timeout=_STOP_TIMEOUT_S,
            auto_decompress=False,
        )
        await runner.setup()
        if runner.server is None:
            raise RuntimeError("an application that was set up has no server")
        self._runner = runner
        self._server = await listen(runner.server, listener)

    async def stop(self) -> None:
        """End; who still waits is told so. Safe to call twice."""
        self._calls.stop()
        server, self._server = self._server, None
        if server is not None:
            server.close()
        runner, self._runner = self._runner, None
        if runner is not None:
            with suppress(TimeoutError):
                await runner.cleanup()

    def handle_reply(self, reply: QpuReply) -> None:
        """Take a reply of the broker from the agent's inbox."""
        self._calls.handle_reply(reply)

    async def handle_transition(self, transition: QpuTransition) -> None:
        """Take a transition from the agent's inbox; one of another attempt, or one that came before, is dropped."""
        if (transition.job_id, transition.attempt) != (self._context.job_id, self._context.attempt):
            return
        for new in self._jobs.apply(transition):
            await self._on_transition(new)
