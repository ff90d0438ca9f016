"""`qonduit up`, `down`, `status`, `logs`, `exec`, `doctor`, `version`."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import qonduit
from qonduit import stack
from qonduit.cli import FAILED, INFRASTRUCTURE, output
from qonduit.stack.errors import StackError

if TYPE_CHECKING:
    from qonduit.stack.layout import Layout

DataDir = Annotated[
    Path | None,
    typer.Option(
        help="The stack's data folder; without it $QONDUIT_HOME, else ~/.local/share/qonduit "
        "(or qonduit in $XDG_DATA_HOME).",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(up)
    app.command()(down)
    app.command()(status)
    app.command()(logs)
    # Whatever stands behind the script is the script's, be it --help.
    behind_script = {"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False}
    app.command("exec", context_settings=behind_script)(exec_script)
    app.command()(doctor)
    app.command()(version)


def up(
    *,
    data_dir: DataDir = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return once all is up.")] = False,
    amqp_url: Annotated[
        str, typer.Option(help="A running RabbitMQ, instead of a private one.", show_default="a private one")
    ] = "",
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="The gateway's port.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="How many workers.")] = 1,
) -> None:
    """Start a stack on this machine; Ctrl-C stops it, and the next start finds its data again.

    Any setting of a service can be given as an environment variable, such as QONDUIT_WORKER_CPU.
    """
    if amqp_url:
        from qonduit.stack.given_rabbitmq import check_url  # noqa: PLC0415 - Only here.

        try:
            check_url(amqp_url)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--amqp-url") from error
    options = stack.Options(_layout(data_dir), amqp_url, port, workers)
    (stack.start_in_background if detach else stack.run_in_foreground)(options)


def down(*, data_dir: DataDir = None) -> None:
    """Stop the stack."""
    layout = _layout(data_dir)
    stopped = stack.stop(layout)
    if stopped.supervised:
        output.say(f"The stack in {layout.data_dir} is stopped.")
    elif stopped.left_behind:
        names = ", ".join(stopped.left_behind)
        output.say(f"The supervisor of the stack in {layout.data_dir} was gone; what it left behind is ended: {names}.")
    else:
        output.say(f"The stack in {layout.data_dir} does not run.")
        _mention_other(layout)


def status(*, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show how each service of the stack is; exit code 4 if one is not well."""
    layout = _layout(data_dir)
    state, services = stack.status(layout)
    healthy = state.running and all(service.good for service in services)
    if as_json:
        output.show_json(
            {
                "data_dir": str(layout.data_dir),
                "running": state.running,
                "phase": state.phase,
                "address": state.address,
                "rest_address": state.rest_address if state.running else "",
                "supervisor_pid": state.supervisor_pid if state.running else 0,
                "services": services,
            }
        )
    elif not services:
        output.say(f"No stack was ever started in {layout.data_dir}. Start one with `qonduit up`.")
        _mention_other(layout)
    else:
        now = time.time()
        rows = [
            (
                service.name,
                service.state,
                str(service.pid or ""),
                ", ".join(f"{name.replace('_', ' ')} {port}" for name, port in service.ports.items()),
                f"{now - service.since:.0f} s",
                str(service.restarts),
            )
            for service in services
        ]
        output.show_table(("service", "state", "pid", "ports", "since", "restarts"), rows, right=(2, 4, 5))
        left = ", but its supervisor left processes behind: `qonduit down` ends them" if state.left_behind() else ""
        running = f"runs at {state.address}" if state.running else f"does not run{left}"
        output.note(f"The stack in {layout.data_dir} {running}.")
        if state.running and state.rest_address:
            output.note(f"Clients of Qiskit Serverless reach it at {state.rest_address}.")
        if not state.running:
            _mention_other(layout)
    if not healthy:
        raise typer.Exit(INFRASTRUCTURE)


def logs(
    service: Annotated[str, typer.Argument(help="gateway, scheduler, storage, qpu_broker, worker, rabbitmq, stack")],
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as the service writes.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last lines.")] = 50,
    data_dir: DataDir = None,
) -> None:
    """Show the log of one service."""
    layout = _layout(data_dir)
    try:
        for line in stack.log_lines(layout, service, last=lines, follow=follow):
            sys.stdout.write(line)
            if follow:
                sys.stdout.flush()
    except StackError as error:
        raise StackError(f"{error} {_other_stack(layout)}".rstrip()) from None


def exec_script(context: typer.Context, script: Annotated[Path, typer.Argument(help="A Python script.")]) -> None:
    """Run a script, with its arguments, in which `import qiskit_serverless` means Qonduit."""
    if not script.is_file():
        raise FileNotFoundError(2, "no such script", str(script))
    compat = Path(qonduit.__file__).parent / "compat"
    search = [str(compat), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(search)}
    sys.stdout.flush()
    command = [sys.executable, str(script), *context.args]
    os.execve(sys.executable, command, environment)  # noqa: S606 - No shell is wanted.


def doctor(*, data_dir: DataDir = None) -> None:
    """Look for what keeps Qonduit from working here, and say what to do."""
    from qonduit.cli.checks import run_checks  # noqa: PLC0415 - It loads what other commands do without.

    checks = run_checks(_layout(data_dir))
    rows = [("ok" if check.good else "wrong", check.name, check.text) for check in checks]
    output.show_table(("", "what", "found"), rows)
    if not all(check.good for check in checks):
        raise typer.Exit(FAILED)


def version(*, as_json: AsJson = False) -> None:
    """Show the version here, and that of the server if there is one."""
    told: dict[str, str | None] = {"qonduit": qonduit.__version__, "server": None, "address": None}
    trouble = ""
    try:
        with qonduit.ServerlessClient() as client:
            told["address"] = client.connection.target.address
            told["server"] = client.cluster.info().version
    except qonduit.QonduitError as error:
        trouble = str(error).splitlines()[0]
    if as_json:
        output.show_json({**told, **({"trouble": trouble} if trouble else {})})
        return
    output.say(f"qonduit {told['qonduit']}")
    output.say(f"server: {trouble}" if trouble else f"server {told['server']} at {told['address']}")


def _layout(data_dir: Path | None) -> Layout:
    layout = stack.layout_of(data_dir)
    if layout.data_dir.exists() and not layout.data_dir.is_dir():
        raise typer.BadParameter(f"the data folder {layout.data_dir} is a file", param_hint="--data-dir, QONDUIT_HOME")
    return layout


def _mention_other(layout: Layout) -> None:
    if other := _other_stack(layout):
        output.note(other)


def _other_stack(layout: Layout) -> str:
    """Return a sentence that names the stack that clients use, where it is another one than was asked about."""
    other = stack.users_stack()
    if other is None or other == layout:
        return ""
    return f"Another one runs in {other.data_dir}: name it with --data-dir {other.data_dir}."
