"""`qonduit provider ...`: functions that are published to others."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import qonduit
from qonduit.cli import output
from qonduit.cli.file_commands import fetch, show_files

if TYPE_CHECKING:
    from collections.abc import Callable

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Function = Annotated[str, typer.Argument(metavar="PROVIDER/TITLE", help="The function.")]
Names = Annotated[list[str], typer.Argument(help="Names of files.")]
Limit = Annotated[int, typer.Option(min=1, help="Most to list.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    provider = typer.Typer(help="Functions that are published to others.", no_args_is_help=True, rich_markup_mode=None)
    commands: dict[str, Callable[..., None]] = {
        "create": create,
        "ls": list_providers,
        "show": show,
        "disable": disable,
        "enable": enable,
        "jobs": jobs,
        "logs": logs,
        "audit": audit,
    }
    for name, command in commands.items():
        provider.command(name)(command)
    files = typer.Typer(
        help="A provider's files for a function, which programs find in /function_data.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    of_files: dict[str, Callable[..., None]] = {"ls": list_files, "put": put, "get": get, "rm": remove}
    for name, command in of_files.items():
        files.command(name)(command)
    provider.add_typer(files, name="files")
    app.add_typer(provider, name="provider")


def create(
    name: Annotated[str, typer.Argument(help="1 to 64 letters, digits, '_', '-' and '.'.")],
    *,
    admin: Annotated[list[str], typer.Option(help="A user who administers it; may be repeated.")],
) -> None:
    """Make a provider; for administrators of the installation."""
    with qonduit.ServerlessClient() as client:
        client.providers.create(name, admin)
    output.say(f"{name} is administered by {', '.join(admin)}.")


def list_providers(*, as_json: AsJson = False) -> None:
    """List the providers of which you may see anything."""
    with qonduit.ServerlessClient() as client:
        found = client.providers.all()
    if as_json:
        output.show_json(found)
        return
    rows = [(each.name, ", ".join(each.roles), output.time_text(each.created)) for each in found]
    output.show_table(("provider", "your roles for all of it", "made"), rows)


def show(
    name: Annotated[str, typer.Argument(metavar="PROVIDER", help="The provider.")], *, as_json: AsJson = False
) -> None:
    """Show a provider's functions that you may see, and your roles."""
    with qonduit.ServerlessClient() as client:
        provider = client.providers.get(name)
        functions = client.list(provider=name)
    if as_json:
        described = [
            {"name": each.name, "version": each.version, "roles": each.roles, "disabled_text": each.disabled_text}
            for each in functions
        ]
        output.show_json({"name": provider.name, "roles": provider.roles, "functions": described})
        return
    output.say(f"{provider.name}: your roles for all of it are {', '.join(provider.roles) or 'none'}.")
    rows = [
        (
            each.name,
            each.version[:12],
            ", ".join(each.roles),
            f"disabled: {each.disabled_text}" if each.disabled_text else each.description.partition("\n")[0],
        )
        for each in functions
    ]
    output.show_table(("function", "version", "your roles", ""), rows)


def disable(
    function: Function, text: Annotated[str, typer.Argument(help="Why, and what to do: users are told it.")]
) -> None:
    """Have a function accept no jobs; those that were accepted go on."""
    with qonduit.ServerlessClient() as client:
        client.providers.disable(function, text)
    output.say(f"{function} accepts no jobs.")


def enable(function: Function) -> None:
    """Have a function accept jobs again."""
    with qonduit.ServerlessClient() as client:
        client.providers.enable(function)
    output.say(f"{function} accepts jobs.")


def jobs(
    function: Function,
    *,
    status: Annotated[str, typer.Option(help="Only jobs with this status: QUEUED, RUNNING, DONE, ERROR, ...")] = "",
    limit: Limit = 20,
    as_json: AsJson = False,
) -> None:
    """List a function's jobs, whoever runs them, newest first."""
    with qonduit.ServerlessClient() as client:
        try:
            found = [job.snapshot() for job in client.provider_jobs(function, status=status, limit=limit)]
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--status") from error
    if as_json:
        output.show_json(found)
        return
    rows = [
        (job.job_id, job.owner, job.status, output.time_text(job.created), job.reason, "trial" if job.trial else "")
        for job in found
    ]
    output.show_table(("job", "user", "status", "created", "why", ""), rows)


def logs(
    job_id: Annotated[str, typer.Argument(help="The job's id, from `qonduit provider jobs`.")],
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends.")] = False,
    tail: Annotated[int, typer.Option("--tail", "-n", min=0, help="Begin with the last so many lines.")] = 0,
) -> None:
    """Show what a job told the provider of its function alone."""
    with qonduit.ServerlessClient() as client:
        for piece in qonduit.Job(job_id, client).stream_provider_logs(follow=follow, tail=tail):
            sys.stdout.write(piece)
            sys.stdout.flush()


def audit(
    name: Annotated[
        str, typer.Argument(metavar="[PROVIDER[/TITLE]]", help="Without one, what was done to groups and users.")
    ] = "",
    *,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List who did what, newest first."""
    with qonduit.ServerlessClient() as client:
        found = client.providers.audit(name, limit=limit)
    if as_json:
        output.show_json(found)
        return
    rows = [
        (output.time_text(each.time), each.actor, each.action, each.name, each.subject, each.detail) for each in found
    ]
    output.show_table(("time", "by", "what", "of", "to", ""), rows)


def list_files(function: Function, *, as_json: AsJson = False) -> None:
    """List the provider's files for a function."""
    with qonduit.ServerlessClient() as client:
        show_files(client.space_of(function, of_provider=True), as_json=as_json)


def put(function: Function, paths: Annotated[list[Path], typer.Argument(help="Local tar or h5 files.")]) -> None:
    """Store files; the function's programs find them in /function_data."""
    with qonduit.ServerlessClient() as client:
        for path in paths:
            client.provider_file_upload(path, function)
            output.say(f"/function_data/{path.name}")


def get(
    function: Function,
    names: Names,
    *,
    into: Annotated[Path, typer.Option("--into", help="Local folder.")] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Replace local files.")] = False,
) -> None:
    """Fetch files under their own names."""
    with qonduit.ServerlessClient() as client:
        fetch(lambda name: client.provider_file_download(name, function, name, into, overwrite=force), names)


def remove(function: Function, names: Names) -> None:
    """Delete files, one after the other; each that is gone is named."""
    with qonduit.ServerlessClient() as client:
        for name in names:
            client.provider_file_delete(name, function)
            output.say(f"{name} was deleted.")
