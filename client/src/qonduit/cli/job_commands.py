"""`qonduit jobs` and `qonduit job ...`."""

from __future__ import annotations

import pprint
import sys
from typing import Annotated

import typer

import qonduit
from qonduit.cli import output
from qonduit.exceptions import JobNotFoundError

JobId = Annotated[str, typer.Argument(help="The job's id, or its first characters: 6 or more.")]
_SHORTEST_PREFIX = 6
_LOOKED_THROUGH = 1000
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(jobs)
    job = typer.Typer(help="One job.", no_args_is_help=True, rich_markup_mode=None)
    for command in (show, watch, logs, result, timeline, usage, cancel, delete):
        job.command()(command)
    app.add_typer(job, name="job")


def jobs(
    *,
    function: Annotated[str, typer.Option(help="Only jobs of this function.")] = "",
    status: Annotated[str, typer.Option(help="Only jobs with this status: QUEUED, RUNNING, DONE, ERROR, ...")] = "",
    limit: Annotated[int, typer.Option(min=1, help="Most to list.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List your jobs, newest first."""
    with qonduit.ServerlessClient() as client:
        try:
            found = client.job_calls.list_jobs(function, status, None, limit)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--status") from error
    if as_json:
        output.show_json(found)
        return
    rows = [
        (job.job_id, job.function, job.status, output.time_text(job.created), job.reason or job.waiting_for)
        for job in found
    ]
    output.show_table(("job", "function", "status", "created", "why"), rows)


def show(job_id: JobId, *, as_json: AsJson = False) -> None:
    """Show all about a job, and its error if it failed."""
    with qonduit.ServerlessClient() as client:
        job = find_job(client, job_id)
        now = job.snapshot()
    if as_json:
        output.show_json(now)
        return
    output.say(job.describe())
    if now.error_text:
        output.say(f"\n{now.error_text}")


def watch(job_id: JobId) -> None:
    """Show stages, tasks and log until the job ends, then its result. Ctrl-C detaches; the job goes on."""
    from qonduit.cli.follow import follow_job  # noqa: PLC0415 - Only followers need threads.

    with qonduit.ServerlessClient() as client:
        follow_job(find_job(client, job_id))


def logs(
    job_id: JobId,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends.")] = False,
    offset: Annotated[int, typer.Option(min=0, help="Bytes to leave out at the beginning.")] = 0,
    task: Annotated[str, typer.Option(help="Only the lines of this task: its number, or a name of several.")] = "",
    tail: Annotated[int, typer.Option("--tail", "-n", min=0, help="Begin with the last so many lines.")] = 0,
) -> None:
    """Show what the program and its tasks printed."""
    chosen = int(task) if task.isdecimal() else task or None
    if tail and (offset or (follow and chosen is not None)):
        raise typer.BadParameter(
            "goes with neither --offset, nor with --task and --follow together", param_hint="--tail"
        )
    with qonduit.ServerlessClient() as client:
        job = find_job(client, job_id)
        if chosen is not None and tail:
            pieces = iter([job.logs(task=chosen, tail=tail)])
        else:
            pieces = job.stream_logs(follow=follow, offset=offset, task=chosen, tail=tail)
        printed = False
        for piece in pieces:
            sys.stdout.write(piece)
            sys.stdout.flush()
            printed = printed or bool(piece)
        if chosen is not None and not printed:
            _check_task(job, chosen)


def _check_task(job: qonduit.Job, chosen: int | str) -> None:
    """Tell a task that has printed nothing from one that there is not."""
    if isinstance(chosen, str):
        found = bool(job.tasks(name=chosen))
    else:
        found = any(task.number == chosen for task in job.tasks())
    if not found:
        raise qonduit.QonduitError(f"{job.job_id} has no task {chosen}; `qonduit tasks {job.job_id}` lists its tasks.")


def result(
    job_id: JobId,
    *,
    wait: Annotated[bool, typer.Option(help="Wait for the job's end.")] = True,
    timeout: Annotated[float | None, typer.Option(help="Most seconds to wait.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, in the encoding of qiskit-ibm-runtime.")] = False,
) -> None:
    """Show a job's result; the exit code tells how the job ended."""
    with qonduit.ServerlessClient() as client:
        value = find_job(client, job_id).result(wait=wait, timeout=timeout)
    if as_json:
        from qonduit.encoding import encode_text  # noqa: PLC0415 - Only here.

        output.say(encode_text(value))
    else:
        output.say(pprint.pformat(value, width=100))


def timeline(job_id: JobId, *, as_json: AsJson = False) -> None:
    """Show every change of a job with its time."""
    with qonduit.ServerlessClient() as client:
        entries = find_job(client, job_id).timeline()
    if as_json:
        output.show_json(list(entries))
    else:
        output.show_table(entries.HEAD, entries.rows(), right=(1, 3))


def usage(job_id: JobId, *, as_json: AsJson = False) -> None:
    """Show what each stage used: seconds on the clock, CPU seconds, QPU seconds, memory."""
    with qonduit.ServerlessClient() as client:
        used = find_job(client, job_id).usage()
    if as_json:
        output.show_json({"stages": used.stages, "total": used.total})
    else:
        output.show_table(used.HEAD, used.rows(), right=(1, 2, 3, 4))


def cancel(job_id: JobId) -> None:
    """Ask for a job's end."""
    with qonduit.ServerlessClient() as client:
        output.say(find_job(client, job_id).cancel())


def delete(job_ids: Annotated[list[str], typer.Argument(help="Ids of jobs, or their beginnings.")]) -> None:
    """Delete jobs that are over, with logs, arguments and results; each that is gone is named."""
    with qonduit.ServerlessClient() as client:
        for job_id in job_ids:
            job = find_job(client, job_id)
            job.delete()
            output.say(f"{job.job_id} was deleted.")


def find_job(client: qonduit.ServerlessClient, job_id: str) -> qonduit.Job:
    """Return a job by its id, or by the beginning of one that only one of the newest thousand jobs has."""
    try:
        return client.job(job_id)
    except JobNotFoundError:
        if len(job_id) < _SHORTEST_PREFIX:
            raise
        found = [job for job in client.jobs(limit=_LOOKED_THROUGH) if job.job_id.startswith(job_id)]
        if not found:
            raise
    if len(found) > 1:
        lines = [f"  {job.job_id}" for job in found]
        raise qonduit.QonduitError("\n".join([f"{job_id} is the beginning of several jobs:", *lines]))
    return found[0]
