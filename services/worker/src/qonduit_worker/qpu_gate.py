"""A sandbox's QPU endpoint, made before the sandbox and its port are there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qonduit_worker.qpu_endpoint import ProgramContext, QpuEndpoint
from qonduit_worker.sandbox import PORT_PLACEHOLDER

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from qonduit_service_kit.messages import ExecutorGranted, JobSpec, QpuTransition

    from qonduit_worker.blobs import JobBlobs
    from qonduit_worker.qpu_endpoint.job_routes import JobWords
    from qonduit_worker.workshop import Workshop

_HOST = "127.0.0.1:"


def qpu_endpoint(
    workshop: Workshop,
    blobs: JobBlobs,
    given: JobSpec | ExecutorGranted,
    *,
    on_transition: Callable[[QpuTransition], Awaitable[None]],
    words: JobWords | None = None,
) -> QpuEndpoint:
    """Return an endpoint for one sandbox, not started: a driver's or an executor's, by what its worker was given."""
    return QpuEndpoint(
        port=0,
        bus=workshop.bus,
        blobs=blobs,
        context=ProgramContext(
            given.job_id,
            given.attempt,
            given.user,
            workshop.worker_id,
            qpu_budget_s=given.qpu_budget_s,
            user_qpu_budget_s=given.user_qpu_budget_s,
        ),
        devices=workshop.devices,
        on_transition=on_transition,
        words=words,
    )


def qpu_environment(endpoint: QpuEndpoint) -> dict[str, str]:
    """Return the endpoint's variables; the sandbox fills in the port of its own listener."""
    return {
        name: value.replace(f"{_HOST}0", f"{_HOST}{PORT_PLACEHOLDER}") for name, value in endpoint.environment().items()
    }
