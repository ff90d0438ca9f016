"""Where no worker takes a job: what is queued, and stopped while it is."""

from __future__ import annotations

from qiskit_serverless import ServerlessClient

from .cells import NO_SERVICE, World, cell


@cell("a queued job")
def cancel_queued(world: World) -> None:
    world.client = ServerlessClient(host=world.host, token=world.token, instance="any")
    job = world.function("second").run()
    assert job.status() == "QUEUED"
    assert not job.in_terminal_state()
    assert job.cancel(NO_SERVICE) == "Job has been stopped."
    assert job.status() == "CANCELED"
    assert job.result() == {}
    assert "No logs yet." in job.logs()
