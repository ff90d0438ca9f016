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
Title = Annotated[str, typer.Argument(help="The function's title, or PROVIDER/TITLE.")]
_SERVERS = "the server's"
_OF_OWN = 6
"""Columns that a list of one's own functions has."""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(upload)
    functions = typer.Typer(rich_markup_mode=None, invoke_without_command=True)
    functions.callback()(list_functions)
    commands = (("versions", versions), ("diff", diff), ("alias", set_alias), ("unalias", unset_alias))
    for name, command in (*commands, ("rollback", rollback)):
        functions.command(name)(command)
    app.add_typer(functions, name="functions")
    app.command()(run)


def upload(
    entrypoint: Annotated[Path, typer.Argument(help="The program to start.")],
    *,
    title: Annotated[str, typer.Option(help="The function's name; without it, the program's.")] = "",
    provider: Annotated[
        str, typer.Option(help="Publish it as a function of this provider, which you administer.")
    ] = "",
    working_dir: Annotated[Path | None, typer.Option(help="The folder to upload; without it, the program's.")] = None,
    dependency: Annotated[list[str] | None, typer.Option(help='Such as "numpy>=2"; may be repeated.')] = None,
    env: Annotated[list[str] | None, typer.Option(help="NAME=VALUE for the program; may be repeated.")] = None,
    description: str = "",
    label: Annotated[str, typer.Option(help="Your own version label, such as 1.2.")] = "",
    schema: Annotated[Path | None, typer.Option(help="A file with the JSON Schema that arguments must fit.")] = None,
    as_json: AsJson = False,
) -> None:
    """Upload a program with its folder as a function; of files that the server has nothing is sent."""
    folder = working_dir or entrypoint.parent
    if entrypoint.is_dir() and not (folder / entrypoint).is_file():
        raise typer.BadParameter(f"{str(entrypoint)!r} is a folder: name the program in it to start.")
    # Relative to the folder, as in the SDK, or to where we are, as a shell completes it.
    inside = entrypoint if (folder / entrypoint).exists() or not entrypoint.exists() else entrypoint.absolute()
    function = qonduit.QiskitFunction(
        title=title or entrypoint.stem,
        provider=provider or None,
        entrypoint=str(inside.relative_to(folder.absolute()) if inside.is_relative_to(folder.absolute()) else inside),
        working_dir=str(folder),
        dependencies=dependency or [],
        env_vars=dict(_pair(item, "--env") for item in env or []),
        description=description,
        version=label,
        arguments_schema=_read_object(schema, "--schema") if schema else None,
    )
    with qonduit.ServerlessClient() as client:
        uploaded = client.upload(function)
    if as_json:
        output.show_json({"title": uploaded.title, "provider": uploaded.provider, "version": uploaded.version})
    else:
        output.say(f"{uploaded.name}, version {uploaded.version[:12]}")


def list_functions(
    context: typer.Context,
    *,
    shared: Annotated[bool, typer.Option("--shared", help="Those of providers that you may see.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Your own, and those of providers.")] = False,
    provider: Annotated[str, typer.Option(help="Only those of this provider.")] = "",
    as_json: AsJson = False,
) -> None:
    """List your functions, newest upload first; or look after their versions."""
    if context.invoked_subcommand is not None:
        return
    whose = "all" if everything else "providers" if shared else "own"
    with qonduit.ServerlessClient() as client:
        found = client.list(whose=whose, provider=provider)
    if as_json:
        output.show_json([_described(function) for function in found])
        return
    head = ("title", "version", "label", "entrypoint", "size", "uploaded", "your roles", "")
    shown = len(head) if any(function.provider for function in found) else _OF_OWN
    output.show_table(head[:shown], [_row(function)[:shown] for function in found], right=(4,))


def _described(function: qonduit.RunnableQiskitFunction) -> dict[str, Any]:
    return {
        "title": function.title,
        "provider": function.provider,
        "roles": function.roles,
        "disabled_text": function.disabled_text,
        "version": function.version,
        "label": function.version_label,
        "entrypoint": function.entrypoint,
        "size_bytes": function.size_bytes,
        "created": function.created,
        "description": function.description,
    }


def _row(function: qonduit.RunnableQiskitFunction) -> tuple[str, ...]:
    return (
        function.name,
        function.version[:12],
        function.version_label,
        function.entrypoint,
        _size_text(function.size_bytes),
        output.time_text(function.created),
        ", ".join(function.roles),
        f"disabled: {function.disabled_text}" if function.disabled_text else "",
    )


def versions(title: Title, *, as_json: AsJson = False) -> None:
    """List a function's versions, newest upload first, and what stands for them."""
    with qonduit.ServerlessClient() as client:
        found = client.get(title).versions()
    if as_json:
        output.show_json(
            [
                {
                    "version": version.version,
                    "aliases": version.aliases,
                    "label": version.version_label,
                    "entrypoint": version.entrypoint,
                    "size_bytes": version.size_bytes,
                    "created": version.created,
                }
                for version in found
            ]
        )
        return
    rows = [
        (
            version.version[:12],
            ", ".join(version.aliases),
            version.version_label,
            version.entrypoint,
            _size_text(version.size_bytes),
            output.time_text(version.created),
        )
        for version in found
    ]
    output.show_table(("version", "aliases", "label", "entrypoint", "size", "uploaded"), rows, right=(4,))


def diff(
    title: Title,
    old: Annotated[str, typer.Argument(help="An alias, or a version's digest or its first 8 digits.")],
    new: Annotated[str, typer.Argument(help="As before.")] = "latest",
) -> None:
    """Show which files differ between two versions of a function."""
    with qonduit.ServerlessClient() as client:
        found = client.get(title, version=old).diff(client.get(title, version=new))
    rows = [("+", file.path, "", output.mem_text(file.size_bytes)) for file in found.added]
    rows += [("-", file.path, output.mem_text(file.size_bytes), "") for file in found.removed]
    rows += [
        ("~", after.path, output.mem_text(before.size_bytes), output.mem_text(after.size_bytes))
        for before, after in found.changed
    ]
    output.show_table(("", "file", old[:12], new[:12]), sorted(rows, key=lambda row: row[1]), right=(2, 3))


def set_alias(
    title: Title,
    alias: Annotated[str, typer.Argument(help="A word such as stable.")],
    version: Annotated[str, typer.Argument(help="An alias, or a version's digest or its first 8 digits.")] = "latest",
) -> None:
    """Have an alias stand for a version: `qonduit run TITLE@ALIAS` runs it."""
    with qonduit.ServerlessClient() as client:
        found = client.get(title, version=version).set_alias(alias)
    output.say(f"{title}@{alias} is version {found.version[:12]}")


def unset_alias(title: Title, alias: Annotated[str, typer.Argument(help="The alias.")]) -> None:
    """Remove an alias."""
    with qonduit.ServerlessClient() as client:
        client.get(title).remove_alias(alias)
    output.say(f"{title}@{alias} is no more")


def rollback(title: Title) -> None:
    """Have "latest" stand for the version before the one that it stands for."""
    with qonduit.ServerlessClient() as client:
        found = client.get(title).rollback()
    output.say(f"{title}@latest is version {found.version[:12]}")


def run(
    function: Annotated[str, typer.Argument(help="TITLE or PROVIDER/TITLE, with @ALIAS or @DIGEST for a version.")],
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
    file: Annotated[
        list[str] | None,
        typer.Option(help="A file of yours that it finds in /data; may be repeated.", show_default="all of them"),
    ] = None,
) -> None:
    """Run a function. Ctrl-C while following detaches; the job goes on."""
    arguments = _read_object(args_file, "--args-file") if args_file else {}
    arguments |= {name: _value(text) for name, text in (_pair(item, "--arg") for item in arg or [])}
    try:
        config = qonduit.Configuration(
            cpu=cpu,
            mem=mem_of(mem),
            gpus=gpus,
            time_limit_s=time_limit,
            priority=priority,
            qpu_budget_s=qpu_budget,
            files=file,
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


def _read_object(path: Path, option: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise typer.BadParameter(f"{path} holds no JSON: {error}", param_hint=option) from error
    if not isinstance(found, dict):
        text = f'{path} must hold a JSON object of names and values, such as {{"count": 3}}'
        raise typer.BadParameter(text, param_hint=option)
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _size_text(size_bytes: int) -> str:
    """Return a size for people; nothing where it is not told, as of a provider's function."""
    return output.mem_text(size_bytes) if size_bytes else ""
