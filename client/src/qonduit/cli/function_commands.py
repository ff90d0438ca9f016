"""`qonduit upload`, `functions`, `run`."""

from __future__ import annotations

import json
from pathlib import Path  # noqa: TC003 - Typer reads annotations when it runs.
from typing import Annotated, Any

import typer

import qonduit
from qonduit.cli import output
from qonduit.cli.sizes import mem_of

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_SERVERS = "the server's"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(upload)
    app.command("functions")(list_functions)
    app.command()(run)


def upload(
    entrypoint: Annotated[Path, typer.Argument(help="The program to start.")],
    *,
    title: Annotated[str, typer.Option(help="The function's name; without it, the program's.")] = "",
    working_dir: Annotated[Path | None, typer.Option(help="The folder to upload; without it, the program's.")] = None,
    dependency: Annotated[list[str] | None, typer.Option(help='Such as "numpy>=2"; may be repeated.')] = None,
    env: Annotated[list[str] | None, typer.Option(help="NAME=VALUE for the program; may be repeated.")] = None,
    description: str = "",
    label: Annotated[str, typer.Option(help="Your own version label, such as 1.2.")] = "",
    as_json: AsJson = False,
) -> None:
    """Upload a program with its folder as a function."""
    folder = working_dir or entrypoint.parent
    if entrypoint.is_dir() and not (folder / entrypoint).is_file():
        raise typer.BadParameter(f"{str(entrypoint)!r} is a folder: name the program in it to start.")
    # Relative to the folder, as in the SDK, or to where we are, as a shell completes it.
    inside = entrypoint if (folder / entrypoint).exists() or not entrypoint.exists() else entrypoint.absolute()
    function = qonduit.QiskitFunction(
        title=title or entrypoint.stem,
        entrypoint=str(inside.relative_to(folder.absolute()) if inside.is_relative_to(folder.absolute()) else inside),
        working_dir=str(folder),
        dependencies=dependency or [],
        env_vars=dict(_pair(item, "--env") for item in env or []),
        description=description,
        version=label,
    )
    with qonduit.ServerlessClient() as client:
        uploaded = client.upload(function)
    if as_json:
        output.show_json({"title": uploaded.title, "version": uploaded.version})
    else:
        output.say(f"{uploaded.title}, version {uploaded.version[:12]}")


def list_functions(*, as_json: AsJson = False) -> None:
    """List your functions, newest upload first."""
    with qonduit.ServerlessClient() as client:
        found = client.list()
    described = [
        {
            "title": function.title,
            "version": function.version,
            "label": function.version_label,
            "entrypoint": function.entrypoint,
            "size_bytes": function.size_bytes,
            "created": function.created,
            "description": function.description,
        }
        for function in found
    ]
    if as_json:
        output.show_json(described)
        return
    rows = [
        (
            function.title,
            function.version[:12],
            function.version_label,
            function.entrypoint,
            output.mem_text(function.size_bytes),
            output.time_text(function.created),
        )
        for function in found
    ]
    output.show_table(("title", "version", "label", "entrypoint", "size", "uploaded"), rows, right=(4,))


def run(
    function: Annotated[str, typer.Argument(help="The function's title.")],
    *,
    arg: Annotated[list[str] | None, typer.Option(help="NAME=VALUE; the value is JSON, or else text.")] = None,
    args_file: Annotated[Path | None, typer.Option(help="A file with all arguments as a JSON object.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show stages and log until it ends.")] = False,
    cpu: Annotated[float, typer.Option(help="Cores for the program.", show_default=f"{_SERVERS}, 1 cpu")] = 0,
    mem: Annotated[
        str,
        typer.Option(help="Memory for the program: 512M, 4G or 4GiB, or bytes.", show_default=f"{_SERVERS}, 2 GiB"),
    ] = "",
    gpus: Annotated[int, typer.Option(help="GPUs for the program.")] = 0,
    time_limit: Annotated[float, typer.Option(help="Seconds it may run.", show_default=f"{_SERVERS}, a day")] = 0,
    priority: Annotated[int, typer.Option(help="Larger goes first among your jobs.")] = 0,
    qpu_budget: Annotated[float, typer.Option(help="Most QPU seconds it may be charged.", show_default="no limit")] = 0,
) -> None:
    """Run a function. Ctrl-C while following detaches; the job goes on."""
    arguments = _read_arguments(args_file) if args_file else {}
    arguments |= {name: _value(text) for name, text in (_pair(item, "--arg") for item in arg or [])}
    try:
        config = qonduit.Configuration(
            cpu=cpu,
            mem=mem_of(mem),
            gpus=gpus,
            time_limit_s=time_limit,
            priority=priority,
            qpu_budget_s=qpu_budget,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    with qonduit.ServerlessClient() as client:
        job = client.run(function, arguments=arguments, config=config)
        if not follow:
            output.say(job.job_id)
            return
        from qonduit.cli.follow import follow_job  # noqa: PLC0415 - Only followers need threads.

        output.note(f"job {job.job_id}")
        follow_job(job)


def _pair(item: str, option: str) -> tuple[str, str]:
    name, separator, value = item.partition("=")
    if not separator or not name:
        raise typer.BadParameter(f"{item!r} is not NAME=VALUE", param_hint=option)
    return name, value


def _read_arguments(path: Path) -> dict[str, Any]:
    try:
        arguments = json.loads(path.read_text())
    except ValueError as error:
        raise typer.BadParameter(f"{path} holds no JSON: {error}", param_hint="--args-file") from error
    if not isinstance(arguments, dict):
        text = f'{path} must hold a JSON object of names and values, such as {{"count": 3}}'
        raise typer.BadParameter(text, param_hint="--args-file")
    return arguments


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
