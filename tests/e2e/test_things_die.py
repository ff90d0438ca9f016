"""Containers are killed, restarted and replaced under jobs, and every job ends right."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

import pytest
from compose_control import OWN_SERVICES, SERVICES
from qonduit.exceptions import ResultTimeoutError, ServerUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from compose_control import Deployment
    from qonduit import Job

HEAD = """\
import time
from qonduit.program.channel import agent
from qiskit_serverless import distribute_task, get, get_arguments, save_result

def told(name):  # The test says when to go on, by a file.
    deadline = time.monotonic() + 300
    while name not in [file["name"] for file in agent().call("files_list")]:
        if time.monotonic() > deadline:
            raise TimeoutError(name)
        time.sleep(0.1)

@distribute_task(target={"cpu": 1, "mem": 2**28})
def square(n):
    time.sleep(0.05)
    return n * n
"""
WAITS = HEAD + (
    "print('begun', flush=True)\n"
    "told(get_arguments()['until'])\n"
    "save_result(sum(get([square(n) for n in range(10)])))\n"
)
WORKS = HEAD + "save_result(sum(get([square(n) for n in range(get_arguments()['count'])])))\n"
SUM_OF_10 = sum(n * n for n in range(10))


def begun(job: Job) -> None:
    """Return once the program runs."""
    for piece in job.stream_logs():
        if "begun" in piece:
            return
    raise AssertionError(f"the job ended: {job.status()}")


def home(job: Job) -> str:
    """The worker that a job's last attempt was placed on."""
    return [entry.text.removeprefix("on worker ") for entry in job.timeline() if entry.text.startswith("on worker ")][
        -1
    ]


def ended_right(job: Job, deployment: Deployment) -> bool:
    """Whether a job has its result; if it is not over in time the failure shows all that may tell why."""
    try:
        return bool(job.result(timeout=300) == SUM_OF_10)
    except ResultTimeoutError as error:
        said = [line for line in deployment.logs().splitlines() if job.job_id in line]
        story = map(str, (error, job.status(), *job.timeline(), *job.tasks(), job.logs(), *said))
        raise AssertionError("\n".join(story)) from None


def test_a_job_whose_worker_is_killed_runs_again_elsewhere(
    deployment: Deployment, submit: Callable[..., Job], tell: Callable[[str], None]
) -> None:
    job = submit(WAITS, until="killed.tar")
    begun(job)
    first = home(job)
    deployment.compose("kill", first)
    try:
        tell("killed.tar")
        assert job.result(timeout=600) == SUM_OF_10
        assert home(job) != first
    finally:
        deployment.up(first)


@pytest.mark.parametrize("service", ["rabbitmq", "postgres"])
def test_a_job_outlives_a_restart_of_what_it_stands_on(
    deployment: Deployment, submit: Callable[..., Job], tell: Callable[[str], None], service: str
) -> None:
    job = submit(WAITS, until=f"{service}.tar")
    begun(job)
    deployment.compose("restart", service)
    deployment.up(service)
    tell(f"{service}.tar")
    assert job.result(timeout=600) == SUM_OF_10


def test_a_watch_goes_on_when_the_gateway_is_replaced(
    deployment: Deployment, submit: Callable[..., Job], tell: Callable[[str], None]
) -> None:
    job = submit(WAITS, until="gateway.tar")
    begun(job)
    results: list[object] = []
    watching = threading.Thread(target=lambda: results.append(job.result(timeout=600)), daemon=True)
    watching.start()
    before = deployment.container("gateway")
    deployment.up("gateway", options=("--force-recreate", "--no-deps"))
    assert deployment.container("gateway") != before
    assert watching.is_alive(), "the watch outlives the gateway that it began with"
    tell("gateway.tar")
    watching.join(600)
    assert results == [SUM_OF_10]


def test_no_job_is_lost_in_a_rolling_restart(deployment: Deployment, submit: Callable[..., Job]) -> None:
    over = threading.Event()
    jobs: list[Job] = []
    failures: list[BaseException] = []

    def load() -> None:
        try:
            while not over.wait(3):
                with contextlib.suppress(ServerUnavailableError):  # Not accepted, so not lost.
                    jobs.append(submit(WORKS, count=10))
        except BaseException as error:  # noqa: BLE001 - it is told by the test.
            failures.append(error)

    user = threading.Thread(target=load, daemon=True)
    user.start()
    try:
        for service in SERVICES:
            deployment.compose("stop", service)
            state = deployment.inspect(service)["State"]
            if service in OWN_SERVICES:
                assert (state["ExitCode"], state["OOMKilled"]) == (0, False), deployment.logs(service, tail="20")
            deployment.up(service)
    finally:
        over.set()
        user.join(120)
    assert not failures
    assert len(jobs) > len(SERVICES)
    assert all(ended_right(job, deployment) for job in jobs)
