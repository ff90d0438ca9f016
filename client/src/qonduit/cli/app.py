"""The command line's root: every command, by what it is about."""

from __future__ import annotations

from typing import Annotated

import typer

import qonduit
from qonduit.cli import (
    cluster_commands,
    file_commands,
    function_commands,
    grant_commands,
    job_commands,
    output,
    provider_commands,
    qpu_commands,
    stack_commands,
    task_commands,
    user_commands,
)

app = typer.Typer(
    name="qonduit",
    help="Run Qiskit programs that mix classical and quantum work.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _say_version(wanted: bool) -> None:  # noqa: FBT001 - Typer calls it.
    if wanted:
        output.say(f"qonduit {qonduit.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    del version


for part in (
    stack_commands,
    function_commands,
    job_commands,
    task_commands,
    file_commands,
    provider_commands,
    grant_commands,
    qpu_commands,
    cluster_commands,
    user_commands,
):
    part.register(app)
