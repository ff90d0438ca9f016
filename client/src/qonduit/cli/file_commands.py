"""`qonduit files ...`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import qonduit
from qonduit.cli import output

if TYPE_CHECKING:
    from collections.abc import Callable

    from qonduit.file_space import FileSpace

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Function = Annotated[
    str, typer.Option(metavar="PROVIDER/TITLE", help="Your files for this function; without it, those of your own.")
]
Names = Annotated[list[str], typer.Argument(help="Names of files in your space.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    files = typer.Typer(help="Your files: tar and h5, in one flat space.", no_args_is_help=True, rich_markup_mode=None)
    for name, command in (("ls", list_files), ("put", put), ("get", get), ("rm", remove), ("usage", usage)):
        files.command(name)(command)
    app.add_typer(files, name="files")


def list_files(*, function: Function = "", as_json: AsJson = False) -> None:
    """List your files."""
    with qonduit.ServerlessClient() as client:
        show_files(client.space_of(function), as_json=as_json)


def show_files(space: FileSpace, *, as_json: bool) -> None:
    """List the files of a space."""
    found = space.list_files()
    if as_json:
        output.show_json(found)
        return
    rows = [
        (file.name, output.mem_text(file.size_bytes), output.time_text(file.stored), file.digest[:12]) for file in found
    ]
    output.show_table(("name", "size", "stored", "sha256"), rows, right=(1,))


def usage(*, function: Function = "", as_json: AsJson = False) -> None:
    """Show how much your files have together, and what they may have."""
    with qonduit.ServerlessClient() as client:
        told = client.file_usage(function)
    if as_json:
        output.show_json(told)
        return
    most = f" of {output.mem_text(told.limit_bytes)}" if told.limit_bytes else ", without limit"
    files = "1 file" if told.file_count == 1 else f"{told.file_count:,} files"
    output.say(f"{files}, {output.mem_text(told.used_bytes)}{most}")


def put(
    paths: Annotated[list[Path], typer.Argument(help="Local tar or h5 files.")],
    *,
    name: Annotated[str | None, typer.Option(help="What to call it (for one file).")] = None,
    function: Function = "",
) -> None:
    """Store files; programs find them in /data."""
    if name and len(paths) > 1:
        raise typer.BadParameter("goes with one file only", param_hint="--name")
    with qonduit.ServerlessClient() as client:
        for path in paths:
            client.file_upload(path, function, name=name)
            output.say(f"/data/{name or path.name}")


def get(
    names: Names,
    *,
    into: Annotated[Path, typer.Option("--into", help="Local folder.")] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Replace local files.")] = False,
    function: Function = "",
) -> None:
    """Fetch files under their own names."""
    with qonduit.ServerlessClient() as client:
        fetch(lambda name: client.file_download(name, function, name, into, overwrite=force), names)


def fetch(download: Callable[[str], str], names: list[str]) -> None:
    """Fetch files one after the other, and say where each is."""
    for name in names:
        try:
            output.say(download(name))
        except FileExistsError as error:
            text = f"{error.filename} is there already, with other content; --force replaces it."
            raise qonduit.QonduitError(text) from error
        except NotADirectoryError as error:
            raise qonduit.QonduitError(f"{error.filename} is no folder, and --into wants one.") from error


def remove(names: Names, *, function: Function = "") -> None:
    """Delete files, one after the other; each that is gone is named."""
    with qonduit.ServerlessClient() as client:
        for name in names:
            client.file_delete(name, function)
            output.say(f"{name} was deleted.")
