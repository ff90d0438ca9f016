"""Jobs: what becomes of them, what they leave, and how they are found and stopped."""

from __future__ import annotations

import time
import warnings
from datetime import UTC, datetime, timedelta

from .cells import OLD, World, cell, refused, told, wait_for

CADENCE_S = 30
"""What the client sleeps between two polls."""


def seconds_of_a_short_job(world: World) -> float:
    """Return how long a user waits for a job that does next to nothing."""
    began = time.monotonic()
    assert world.function("short").run().result() == {"done": True}
    return time.monotonic() - began


@cell("Job.result")
def result(world: World) -> str | None:
    # On a busy machine also such a job may take longer than its first poll is held; then the client sleeps, as ever.
    assert any(seconds_of_a_short_job(world) < CADENCE_S for _ in range(5)), "no short job returned at once"
    shown = told(world.over("fails").result)
    assert "the lamp is broken" in shown, shown
    return "differs: a job of less than three seconds returns at once, not after 30 s"


@cell("Job.status")
def status(world: World) -> str | None:
    assert world.over("values").status() == "DONE"
    assert world.over("fails").status() == "ERROR"
    job = world.made["staged"] = world.function("stages").run()
    wait_for(lambda: job.status() == "RUNNING: MAPPING", "the stage")
    return "differs: takes up to three seconds in the job's first three"


@cell("Job.in_terminal_state")
def in_terminal_state(world: World) -> None:
    assert world.over("values").in_terminal_state()
    assert not world.made["staged"].in_terminal_state()


@cell("Job.cancel")
def cancel(world: World) -> str | None:
    job = world.made["staged"]
    message = job.cancel()  # Newer clients look for a service of IBM's before, and go on without one.
    assert message == "Job has been stopped.", message
    assert job.status() == "CANCELED"
    assert job.result() == {}
    return 'differs: QPU jobs end with the job, whatever service is given; channel="local" can\'t in this client itself'


@cell("Job.stop")
def stop(world: World) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        message = world.over("values").stop()
    assert message == "Job already in terminal state.", message


@cell("Job.logs")
def logs(world: World) -> None:
    assert world.over("values").logs() == "got ['array', 'circuit']\na second line\n"
    assert "No logs yet." in world.made["staged"].logs()


@cell("Job.filtered_logs")
def filtered_logs(world: World) -> None:
    assert world.over("values").filtered_logs(include="second") == "a second line\n"
    assert world.over("values").filtered_logs(exclude="second") == "got ['array', 'circuit']\n"


@cell("in programs: loggers, ServerlessError")
def loggers_and_errors(world: World) -> None:
    job = world.over("told")
    for line in ("for all\n", "\nINFO: for\nsome\n"):
        assert line in job.logs(), job.logs()
    said = job.error_message()
    if OLD:
        assert "[E42] the lamp is broken\n{'lamp': 7}" in said, said
    else:
        told_error = "\n| Message: the lamp is broken\n| Code: E42\n| Exception: ServerlessError"
        assert said == f"{told_error}\n| Details:\n|   - lamp: 7", said


@cell("Job.error_message")
def error_message(world: World) -> None:
    said = world.over("fails").error_message()
    assert 'raise ValueError("the lamp is broken")' in said, said
    if not OLD:
        assert "| Code: PROGRAM_ERROR\n| Exception: ValueError: the lamp is broken" in said, said
        assert world.over("values").error_message() == ""


@cell("Job.events")
def events(world: World) -> None:
    changes = world.over("fails").events()
    assert [each.data.get("status") for each in changes if each.event_type == "STATUS_CHANGE"] == [
        "FAILED",
        "RUNNING",
        "PENDING",
        "QUEUED",
    ]
    stages = [each.data for each in world.made["staged"].events() if each.event_type == "SUB_STATUS_CHANGE"]
    assert stages == [{"sub_status": "MAPPING"}], stages
    assert [each.event_type for each in world.over("fails").events(type="ERROR")] == ["ERROR"]
    refused(lambda: world.over("fails").events(type="OTHER"), "Type is not valid. Valid types: ['ERROR']")


@cell("Job.runtime_jobs")
def runtime_jobs(world: World) -> None:
    assert world.over("values").runtime_jobs() == []
    job = world.over("qpu")
    result = job.result()
    assert job.runtime_jobs() == [result["job"]], job.runtime_jobs()
    assert job.runtime_jobs(runtime_session=result["session"]) == [result["job"]]


@cell("Job.runtime_sessions")
def runtime_sessions(world: World) -> None:
    job = world.over("qpu")
    assert job.runtime_sessions() == [job.result()["session"]]


@cell("ServerlessClient.jobs")
def jobs(world: World) -> None:
    every = [job.job_id for job in world.client.jobs(limit=100)]
    assert len(every) >= 5
    paged = [job.job_id for at in range(0, len(every) + 2, 2) for job in world.client.jobs(limit=2, offset=at)]
    assert paged == every
    done = world.client.jobs(status="DONE", limit=100)
    assert world.over("values").job_id in {job.job_id for job in done}
    assert world.over("fails").job_id not in {job.job_id for job in done}
    soon = datetime.now(UTC) + timedelta(hours=1)
    assert world.client.jobs(created_after=soon) == []
    assert len(world.client.jobs(created_after=soon - timedelta(hours=2), limit=100)) == len(every)
    assert world.client.jobs(filter="catalog") == []


@cell("RunnableQiskitFunction.jobs")
def jobs_of_function(world: World) -> None:
    assert [job.job_id for job in world.function("values").jobs()] == [world.over("values").job_id]


@cell("RunnableQiskitFunction.get_jobs")
def get_jobs_of_function(world: World) -> None:
    assert len(world.function("values").get_jobs()) == 1


@cell("ServerlessClient.get_jobs")
def get_jobs(world: World) -> None:
    assert len(world.client.get_jobs(limit=3)) == 3


@cell("ServerlessClient.job")
def job(world: World) -> None:
    found = world.client.job(world.over("values").job_id)
    assert found.status() == "DONE"
    assert "twice" in found.result()
    refused(lambda: world.client.job("nothing"), "Job [nothing] not found", "404")


@cell("ServerlessClient.get_job_by_id")
def get_job_by_id(world: World) -> None:
    assert world.client.get_job_by_id(world.over("values").job_id).status() == "DONE"
