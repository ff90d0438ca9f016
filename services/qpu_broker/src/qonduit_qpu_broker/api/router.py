"""Which handler answers which request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qonduit_qpu_broker.problems import NotFound

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from qonduit_service_kit.messages import QpuRequest

    from qonduit_qpu_broker.api.answer import Answer
    from qonduit_qpu_broker.api.backends import BackendsApi
    from qonduit_qpu_broker.api.jobs import JobsApi
    from qonduit_qpu_broker.api.operator import OperatorApi
    from qonduit_qpu_broker.api.sessions import SessionsApi

    Handler = Callable[..., Awaitable[Answer]]

NAME = "{}"


class Router:
    """Finds a handler by method and path; '{}' in a pattern is a name, given to the handler."""

    def __init__(self, backends: BackendsApi, jobs: JobsApi, sessions: SessionsApi, operator: OperatorApi) -> None:
        self._routes: dict[tuple[str, ...], Handler] = {
            ("GET", "backends"): backends.list,
            ("GET", "backends", NAME, "status"): backends.status,
            ("GET", "backends", NAME, "configuration"): backends.configuration,
            ("GET", "backends", NAME, "properties"): backends.properties,
            ("GET", "jobs"): operator.jobs,
            ("POST", "jobs"): jobs.submit,
            ("GET", "jobs", NAME): jobs.get,
            ("DELETE", "jobs", NAME): jobs.delete,
            ("GET", "jobs", NAME, "results"): jobs.results,
            ("GET", "jobs", NAME, "metrics"): jobs.metrics,
            ("GET", "jobs", NAME, "logs"): jobs.logs,
            ("POST", "jobs", NAME, "cancel"): jobs.cancel,
            ("PUT", "jobs", NAME, "tags"): jobs.set_tags,
            ("GET", "sessions"): operator.sessions,
            ("POST", "sessions"): sessions.open,
            ("GET", "sessions", NAME): operator.session,
            ("PATCH", "sessions", NAME): sessions.update,
            ("DELETE", "sessions", NAME, "close"): sessions.cancel,
            ("GET", "status"): operator.status,
        }

    async def answer(self, request: QpuRequest) -> Answer:
        """Return a handler's answer; Problem."""
        parts = request.path.strip("/").split("/")
        pattern = (request.method, *(NAME if number == 1 else part for number, part in enumerate(parts)))
        handler = self._routes.get(pattern)
        if handler is None:
            raise NotFound(f"{request.method} {request.path} is not served here.")
        return await handler(request, *parts[1:2])
