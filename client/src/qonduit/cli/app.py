"""The command line's root: every command, by what it is about."""

from __future__ import annotations

import typer

from qonduit.cli import cluster_commands, file_commands, function_commands, job_commands, stack_commands

app = typer.Typer(
    name="qonduit",
    help="Run Qiskit programs that mix classical and quantum work.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
for part in (stack_commands, function_commands, job_commands, file_commands, cluster_commands):
    part.register(app)
