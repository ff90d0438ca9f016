"""`qonduit qpu`: devices, QPU jobs and sessions, and how the instances are doing."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

import qonduit
from qonduit.cli import output
from qonduit.cli.job_commands import find_job

if TYPE_CHECKING:
    from qonduit.qpus import QpuInstance, QpuJob, QpuQueue, QpuStatus

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Limit = Annotated[int, typer.Option(min=1, help="Most to list.")]
Pending = Annotated[bool, typer.Option("--pending", help="Only those that have not ended.")]
_PLENTY_S = 60


def register(app: typer.Typer) -> None:
    """Add the commands."""
    qpu = typer.Typer(help="QPUs: devices, your QPU jobs and sessions.", no_args_is_help=True, rich_markup_mode=None)
    qpu.command()(backends)
    qpu.command()(jobs)
    qpu.command()(sessions)
    qpu.command()(status)
    qpu.command()(cancel)
    qpu.command()(close)
    app.add_typer(qpu, name="qpu")


def backends(*, as_json: AsJson = False) -> None:
    """List the devices: qubits, whether they are online, and how many jobs wait for them."""
    with qonduit.ServerlessClient() as client:
        found = client.qpu.backends()
    if as_json:
        output.show_json(found)
        return
    rows = [
        (each.name, str(each.qubits), each.status, str(each.queue_length), "simulated" if each.simulated else "")
        for each in found
    ]
    output.show_table(("device", "qubits", "status", "waiting", ""), rows, right=(1, 3))


def jobs(
    *,
    job: Annotated[str, typer.Option(help="Only those of this job; its id, or how it begins.")] = "",
    pending: Pending = False,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List your QPU jobs, newest first; those of one job in the order of their submission."""
    with qonduit.ServerlessClient() as client:
        job_id = find_job(client, job).job_id if job else ""
        found = client.qpu.jobs(job_id, pending=pending, limit=limit)
    if as_json:
        output.show_json(found)
        return
    rows = [
        (
            each.qpu_job_id,
            each.state,
            each.backend,
            each.program,
            each.job_id,
            each.session_id,
            output.time_text(each.created),
            _seconds_text(each),
            each.reason,
        )
        for each in found
    ]
    head = ("QPU job", "state", "device", "program", "job", "session", "submitted", "QPU s", "reason")
    output.show_table(head, rows, right=(7,))


def sessions(*, pending: Pending = False, limit: Limit = 50, as_json: AsJson = False) -> None:
    """List your sessions and batches, newest first."""
    with qonduit.ServerlessClient() as client:
        found = client.qpu.sessions(pending=pending, limit=limit)
    if as_json:
        output.show_json(found)
        return
    rows = [
        (
            each.session_id,
            each.mode,
            each.state,
            each.backend,
            each.job_id,
            output.time_text(each.created),
            f"{each.elapsed_s:.3f}",
            str(each.unfinished_jobs),
        )
        for each in found
    ]
    head = ("session", "mode", "state", "device", "job", "opened", "seconds", "jobs left")
    output.show_table(head, rows, right=(6, 7))


def status(*, as_json: AsJson = False) -> None:
    """Say how the instances are doing, how many jobs wait for which device, and what you have used."""
    with qonduit.ServerlessClient() as client:
        found = client.qpu.status()
    if as_json:
        output.show_json(found)
        return
    rows = [(each.name, each.state, str(each.in_flight), each.instance, _words(each)) for each in found.instances]
    output.show_table(("instance", "state", "jobs there", "crn", "what is so"), rows, right=(2,))
    waiting = [(each.backend, each.status, str(each.queue_length)) for each in found.queues if _noteworthy(each)]
    output.say("")
    if waiting:
        output.show_table(("device", "status", "waiting"), waiting, right=(2,))
    else:
        output.say(f"All {len(found.queues)} devices are online, and no job waits for one.")
    output.say("")
    output.say(_used_text(found))


def cancel(qpu_job_id: Annotated[str, typer.Argument(metavar="ID", help="Its id, from `qonduit qpu jobs`.")]) -> None:
    """Cancel a QPU job: one that waits at once and for nothing, one that runs as soon as its device lets go."""
    with qonduit.ServerlessClient() as client:
        after = client.qpu.cancel(qpu_job_id)
    if after.ended is None:
        output.say(f"{qpu_job_id} is being cancelled; until its device lets go it is {after.state}.")
    else:
        cost = "" if after.qpu_seconds is None else f"; {after.qpu_seconds:.3f} QPU seconds were charged"
        output.say(f"{qpu_job_id} is {after.state}{cost}.")


def close(
    session_id: Annotated[str, typer.Argument(metavar="ID", help="Its id, from `qonduit qpu sessions`.")],
    *,
    cancel_jobs: Annotated[bool, typer.Option("--cancel", help="Cancel what waits in it as well.")] = False,
) -> None:
    """Close a session or batch: it takes no more jobs, and ends with the last one that it has."""
    with qonduit.ServerlessClient() as client:
        after = client.qpu.close_session(session_id, cancel=cancel_jobs)
    if after.unfinished_jobs:
        output.say(f"{session_id} takes no more jobs, and ends with the {after.unfinished_jobs} that it has.")
    else:
        output.say(f"{session_id} is closed.")


def _seconds_text(job: QpuJob) -> str:
    if job.qpu_seconds is not None:
        return f"{job.qpu_seconds:.3f}"
    return "pending" if job.ended else ""


def _noteworthy(queue: QpuQueue) -> bool:
    return queue.queue_length > 0 or queue.status != "online"


def _words(instance: QpuInstance) -> str:
    """Return what is so, and until when."""
    if instance.until is None:
        return instance.text
    left_s = (instance.until - datetime.now(UTC)).total_seconds()
    if left_s <= 0:
        return f"{instance.text} It is tried again now."
    left = f"{left_s:.0f} s" if left_s < _PLENTY_S else f"{left_s / 60:.0f} min"
    return f"{instance.text} It is tried again in {left}, at {output.time_text(instance.until)}."


def _used_text(found: QpuStatus) -> str:
    if not found.qpu_seconds_limit:
        return f"You were charged {found.qpu_seconds_used:.3f} QPU seconds in the last 28 days, and have no limit."
    left = max(0.0, found.qpu_seconds_limit - found.qpu_seconds_used)
    used = f"{found.qpu_seconds_used:.3f} of {found.qpu_seconds_limit:g} QPU seconds in the last 28 days"
    end = f"{left:.3f} are left." if left else "none is left until older ones are 28 days past."
    return f"You were charged {used}; {end}"
