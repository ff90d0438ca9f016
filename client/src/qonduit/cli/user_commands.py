"""`qonduit users`; what is about their tokens is in `token_commands`."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Annotated, Any

import typer

import qonduit
from qonduit.cli import output, token_commands
from qonduit.cli.sizes import mem_of, room_text, size_of

if TYPE_CHECKING:
    from qonduit.cluster import User

_NO_LIMIT = "no limit"
Name = Annotated[str, typer.Argument(help="The user's name.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    users = typer.Typer(
        help="Users, for administrators; and everybody's own tokens.", no_args_is_help=True, rich_markup_mode=None
    )
    users.command("ls")(list_users)
    users.command("add")(add_user)
    users.command("limit")(limit)
    users.command("disable")(disable)
    users.command("enable")(enable)
    token_commands.register(users)
    app.add_typer(users, name="users")


def list_users(*, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the users and their limits."""
    with qonduit.ServerlessClient() as client:
        found = client.cluster.users()
    if as_json:
        output.show_json(found)
        return
    head = (
        "user",
        "",
        "jobs",
        "running",
        "time limit",
        "a job's tasks hold at most",
        "QPU seconds in 28 days",
        "files have at most",
        "made",
    )
    output.show_table(head, [_row(user) for user in found], right=(2, 3, 4, 6, 7))


def _row(user: User) -> tuple[str, ...]:
    return (
        user.name,
        ", ".join(_marks(user)),
        f"{user.active_jobs_limit:,}" if user.active_jobs_limit else _NO_LIMIT,
        f"{user.running_jobs_limit:,}" if user.running_jobs_limit else _NO_LIMIT,
        f"{user.time_limit_s:,g} s" if user.time_limit_s else "",
        room_text(user.limit),
        f"{user.qpu_seconds_limit:g}" if user.qpu_seconds_limit else _NO_LIMIT,
        output.mem_text(user.file_bytes_limit) if user.file_bytes_limit else _NO_LIMIT,
        output.time_text(user.created),
    )


def _marks(user: User) -> list[str]:
    disabled = f"disabled: {user.disabled_text}" if user.disabled_text else "disabled"
    return ["administrator"] * user.administrator + [disabled] * user.disabled


def limit(
    name: Name,
    *,
    active_jobs: Annotated[
        int | None, typer.Option(min=0, help="Jobs that are not over; 0 for no limit.", show_default=False)
    ] = None,
    running_jobs: Annotated[
        int | None, typer.Option(min=0, help="Jobs that run at a time; 0 for no limit.", show_default=False)
    ] = None,
    time_limit: Annotated[
        float | None, typer.Option(help="Longest time limit of a job, in seconds.", show_default=False)
    ] = None,
    cpu: Annotated[float | None, typer.Option(help="Cores.", show_default=False)] = None,
    mem: Annotated[str, typer.Option(help="Memory: 512M, 64G or 64GiB, or bytes.", show_default=False)] = "",
    gpus: Annotated[int | None, typer.Option(help="GPUs.", show_default=False)] = None,
    qpu_seconds: Annotated[
        float | None, typer.Option(help="QPU seconds in any 28 days; 0 for no limit.", show_default=False)
    ] = None,
    files: Annotated[
        str, typer.Option(help="All files together: 512M, 64G or 64GiB, or bytes; 0 for no limit.", show_default=False)
    ] = "",
    reset: Annotated[bool, typer.Option("--default", help="Go back to the server's limits first.")] = False,
) -> None:
    """Set how many jobs a user may have, what the tasks of each may hold (cpu, mem, gpus), and what they use and keep.

    It holds from the next job on; for what waits to run, and for files out of jobs, at once.
    """
    _check(cpu, time_limit, qpu_seconds)
    given: dict[str, Any] = {
        "active_jobs": active_jobs,
        "running_jobs": running_jobs,
        "time_limit_s": time_limit,
        "cpu": cpu,
        "mem_bytes": mem_of(mem) or None,
        "gpus": gpus,
        "qpu_seconds": qpu_seconds,
        "file_bytes": size_of(files, "--files") if files else None,
    }
    asked = {what: value for what, value in given.items() if value is not None}
    if not asked and not reset:
        raise typer.BadParameter(
            "say what to set: --active-jobs, --running-jobs, --time-limit, --cpu, --mem, --gpus, --qpu-seconds, "
            "--files or --default"
        )
    with qonduit.ServerlessClient() as client:
        user = client.cluster.set_limit(name, reset=reset, **asked)
    for sentence in _sentences(user, asked):
        output.say(sentence)


def _check(cpu: float | None, time_limit: float | None, qpu_seconds: float | None) -> None:
    if cpu is not None and not 0 < cpu < inf:
        raise typer.BadParameter(f"cpu must be above 0, and is {cpu:g}", param_hint="--cpu")
    if time_limit is not None and not 1 <= time_limit < inf:
        text = f"the time limit must be at least a second, and is {time_limit:g}"
        raise typer.BadParameter(text, param_hint="--time-limit")
    if qpu_seconds is not None and not 0 <= qpu_seconds < inf:
        text = f"QPU seconds must not be negative, and are {qpu_seconds:g}"
        raise typer.BadParameter(text, param_hint="--qpu-seconds")


def _sentences(user: User, asked: dict[str, Any]) -> list[str]:
    """Say which limits hold, those without a bound only if they were asked for."""
    name = user.name
    bounded = {
        "active_jobs": user.active_jobs_limit and f"{name} may have {_jobs(user.active_jobs_limit)} that are not over.",
        "running_jobs": user.running_jobs_limit
        and f"{name} may have {_jobs(user.running_jobs_limit)} running at a time; the others wait.",
        "time_limit_s": user.time_limit_s and f"A job of {name} may run for {user.time_limit_s:,g} s.",
        "tasks": f"The tasks of each job of {name} hold at most {room_text(user.limit)} together.",
        "qpu_seconds": user.qpu_seconds_limit
        and f"{name} may use {user.qpu_seconds_limit:g} QPU seconds in any 28 days.",
        "file_bytes": user.file_bytes_limit
        and f"The files of {name} have at most {output.mem_text(user.file_bytes_limit)} together.",
    }
    unbounded = {
        "active_jobs": f"{name} may have any number of jobs.",
        "running_jobs": f"{name} may have any number of jobs running.",
        "qpu_seconds": f"{name} may use QPUs without limit.",
        "file_bytes": f"The files of {name} may have as much as fits.",
    }
    return [
        sentence or unbounded[what]
        for what, sentence in bounded.items()
        if sentence or (what in asked and what in unbounded)
    ]


def add_user(
    name: Annotated[str, typer.Argument(help="Letters, digits, '_', '-', '.', '@'.")],
    *,
    administrator: Annotated[bool, typer.Option("--administrator", help="May administer.")] = False,
) -> None:
    """Make a user and print their token; it is shown only now."""
    with qonduit.ServerlessClient() as client:
        token = client.cluster.add_user(name, administrator=administrator)
    output.note(f"The token of {name}, shown only now:")
    output.say(token)


def disable(
    name: Name,
    *,
    reason: Annotated[str, typer.Option(help="Why: the user is told it.", show_default=False)] = "",
    cancel_jobs: Annotated[bool, typer.Option("--cancel-jobs", help="Also cancel the jobs that are not over.")] = False,
) -> None:
    """Refuse whatever a user calls, until they are enabled; their jobs go on unless they are to be canceled."""
    with qonduit.ServerlessClient() as client:
        canceled = client.cluster.disable(name, reason, cancel_jobs=cancel_jobs)
    went = f"{_jobs(canceled)} of theirs {'was' if canceled == 1 else 'were'} canceled"
    output.say(f"{name} is disabled; {went if cancel_jobs else 'their jobs go on'}.")


def enable(name: Name) -> None:
    """Let a user in again, with the tokens that they have."""
    with qonduit.ServerlessClient() as client:
        client.cluster.enable(name)
    output.say(f"{name} is enabled.")


def _jobs(number: int) -> str:
    return f"{number:,} job" if number == 1 else f"{number:,} jobs"
