"""`qonduit tasks`."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

import qonduit
from qonduit.cli import output
from qonduit.cli.job_commands import JobId, find_job
from qonduit.job_tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qonduit.job_tasks import TaskInfo


class Format(StrEnum):
    """How a list is printed."""

    TABLE = "table"
    JSON = "json"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(tasks)


def tasks(
    job_id: JobId,
    *,
    state: Annotated[
        list[str] | None, typer.Option(help="Only tasks in this state: RUNNING, DONE, ERROR, ...; may be repeated.")
    ] = None,
    name: Annotated[str, typer.Option(help="Only tasks of this name.")] = "",
    attempt: Annotated[int, typer.Option(min=0, help="Of this attempt of the job.", show_default="the newest")] = 0,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Go on with a line for each task that changes, until the job is over.")
    ] = False,
    form: Annotated[Format, typer.Option("--output", "-o", help="How to print them.")] = Format.TABLE,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; with --watch an object a line.")] = False,
) -> None:
    """List a job's tasks: state, worker, times, CPU, memory, and why one failed."""
    in_json = as_json or form is Format.JSON
    with qonduit.ServerlessClient() as client:
        job = find_job(client, job_id)
        try:
            found = job.tasks(state or None, name or None, attempt=attempt or None)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--state") from error
        if not watch:
            _show(found, in_json=in_json)
            return
        if not in_json:
            output.say("  ".join(Tasks.HEAD))
        for task in _changes(job, state, name, attempt):
            line = json.dumps(task, default=output.plain) if in_json else "  ".join(task.row())
            output.say(line)
            sys.stdout.flush()


def _show(found: Tasks, *, in_json: bool) -> None:
    if in_json:
        output.show_json(list(found))
        return
    output.show_table(Tasks.HEAD, [task.row() for task in found], right=tuple(Tasks.RIGHT))
    if counts := found.counts:
        output.note(", ".join(f"{count} {state}" for state, count in counts.items()))


def _changes(job: qonduit.Job, state: list[str] | None, name: str, attempt: int) -> Iterator[TaskInfo]:
    """Yield each task now and whenever it has changed, until the job is over."""
    known: dict[tuple[int, int], TaskInfo] = {}
    for _ in job.watch():
        found = job.tasks(state, name or None, attempt=attempt or None)
        for task in found:
            # Times that go on by themselves are no change.
            mark = replace(task, queue_s=0.0, run_s=0.0)
            if known.get((found.attempt, task.number)) != mark:
                known[found.attempt, task.number] = mark
                yield task
