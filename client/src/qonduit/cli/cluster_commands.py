"""`qonduit workers`, `worker`, `queue`, `users`, `dead-letters`."""

from __future__ import annotations

from dataclasses import asdict
from math import inf
from typing import Annotated

import typer

import qonduit
from qonduit.cli import output
from qonduit.cli.sizes import age_text, mem_of, room_text, size_of

WorkerId = Annotated[str, typer.Argument(metavar="WORKER", help="Its id, from `qonduit workers`.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(workers)
    worker = typer.Typer(help="One worker, for administrators.", no_args_is_help=True, rich_markup_mode=None)
    worker.command("drain")(drain)
    worker.command("resume")(resume)
    app.add_typer(worker, name="worker")
    app.command()(queue)
    users = typer.Typer(help="Users, for administrators.", no_args_is_help=True, rich_markup_mode=None)
    users.command("ls")(list_users)
    users.command("add")(add_user)
    users.command("limit")(limit)
    app.add_typer(users, name="users")
    letters = typer.Typer(
        help="Messages that no service could handle, for administrators.", no_args_is_help=True, rich_markup_mode=None
    )
    letters.command("ls")(list_dead_letters)
    letters.command("replay")(replay)
    app.add_typer(letters, name="dead-letters")


def workers(*, as_json: AsJson = False) -> None:
    """List the workers: whether they take work, what is used and free on them, and how well they confine programs."""
    with qonduit.ServerlessClient() as client:
        found = client.cluster.workers()
    if as_json:
        output.show_json([{**asdict(worker), "state": worker.state} for worker in found])
        return
    rows = [
        (
            worker.worker_id,
            worker.hostname,
            worker.state,
            room_text(worker.used),
            room_text(worker.free),
            str(worker.leases),
            worker.sandbox_tier,
            output.time_text(worker.seen),
        )
        for worker in found
    ]
    head = ("worker", "machine", "state", "used", "free", "leases", "sandbox", "heard")
    output.show_table(head, rows, right=(5,))


def drain(
    worker_id: WorkerId,
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Return once nothing runs there.")] = False,
) -> None:
    """Have a worker take nothing new; what runs there goes on. It keeps to it over restarts."""
    with qonduit.ServerlessClient() as client:
        client.cluster.drain(worker_id)
        if not wait:
            output.say(f"{worker_id} takes nothing new. `qonduit workers` shows when it is drained.")
            return
        before = None
        for worker in client.cluster.until_drained(worker_id):
            if worker.draining and worker.leases != before:
                before = worker.leases
                output.note(f"{worker_id} is {worker.state}: {worker.leases} leases in force")
    output.say(f"Nothing runs on {worker_id}.")


def resume(worker_id: WorkerId) -> None:
    """Have a worker that drains take work again."""
    with qonduit.ServerlessClient() as client:
        client.cluster.resume(worker_id)
    output.say(f"{worker_id} takes work.")


def queue(*, as_json: AsJson = False) -> None:
    """List what waits for room, and why."""
    with qonduit.ServerlessClient() as client:
        found = client.cluster.queue()
    if as_json:
        output.show_json(found)
        return
    rows = [
        (
            str(entry.position),
            entry.job_id or "(another user's)",
            entry.user,
            entry.kind,
            str(entry.count),
            room_text(entry.room),
            age_text(entry.since),
            entry.why,
        )
        for entry in found
    ]
    head = ("place", "job", "user", "kind", "count", "needs", "waits for", "why")
    output.show_table(head, rows, right=(0, 4, 6))


def list_users(*, as_json: AsJson = False) -> None:
    """List the users."""
    with qonduit.ServerlessClient() as client:
        found = client.cluster.users()
    if as_json:
        output.show_json(found)
        return
    rows = [
        (
            user.name,
            "administrator" if user.administrator else "",
            room_text(user.limit),
            f"{user.qpu_seconds_limit:g}" if user.qpu_seconds_limit else "no limit",
            output.mem_text(user.file_bytes_limit) if user.file_bytes_limit else "no limit",
            output.time_text(user.created),
        )
        for user in found
    ]
    head = ("user", "", "a job's tasks hold at most", "QPU seconds in 28 days", "files have at most", "made")
    output.show_table(head, rows, right=(3, 4))


def limit(
    name: Annotated[str, typer.Argument(help="The user's name.")],
    *,
    cpu: Annotated[float | None, typer.Option(help="Cores.", show_default=False)] = None,
    mem: Annotated[str, typer.Option(help="Memory: 512M, 64G or 64GiB, or bytes.", show_default=False)] = "",
    gpus: Annotated[int | None, typer.Option(help="GPUs.", show_default=False)] = None,
    qpu_seconds: Annotated[
        float | None, typer.Option(help="QPU seconds in any 28 days; 0 for no limit.", show_default=False)
    ] = None,
    files: Annotated[
        str, typer.Option(help="All files together: 512M, 64G or 64GiB, or bytes; 0 for no limit.", show_default=False)
    ] = "",
    reset: Annotated[bool, typer.Option("--default", help="Go back to the server's limit first.")] = False,
) -> None:
    """Set how much the tasks of each of a user's jobs may hold together, and what the user may use of QPUs and keep.

    For jobs, and for files within them, it holds from their next one on; for other files at once.
    """
    if cpu is None and gpus is None and qpu_seconds is None and not mem and not files and not reset:
        raise typer.BadParameter("say what to set: --cpu, --mem, --gpus, --qpu-seconds, --files or --default")
    if cpu is not None and not 0 < cpu < inf:
        raise typer.BadParameter(f"cpu must be above 0, and is {cpu:g}", param_hint="--cpu")
    if qpu_seconds is not None and not 0 <= qpu_seconds < inf:
        raise typer.BadParameter(
            f"QPU seconds must not be negative, and are {qpu_seconds:g}", param_hint="--qpu-seconds"
        )
    with qonduit.ServerlessClient() as client:
        user = client.cluster.set_limit(
            name,
            cpu=cpu,
            mem_bytes=mem_of(mem) or None,
            gpus=gpus,
            qpu_seconds=qpu_seconds,
            file_bytes=size_of(files, "--files") if files else None,
            reset=reset,
        )
    output.say(f"The tasks of each job of {name} hold at most {room_text(user.limit)} together.")
    if user.qpu_seconds_limit:
        output.say(f"{name} may use {user.qpu_seconds_limit:g} QPU seconds in any 28 days.")
    elif qpu_seconds is not None:
        output.say(f"{name} may use QPUs without limit.")
    if user.file_bytes_limit:
        output.say(f"The files of {name} have at most {output.mem_text(user.file_bytes_limit)} together.")
    elif files:
        output.say(f"The files of {name} may have as much as fits.")


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


def list_dead_letters(
    *, limit: Annotated[int, typer.Option(min=1, help="Most to list.")] = 50, as_json: AsJson = False
) -> None:
    """List messages that no service could handle, newest first."""
    with qonduit.ServerlessClient() as client:
        found = client.cluster.dead_letters(limit)
    if as_json:
        output.show_json(found)
        return
    rows = [
        (
            str(letter.dead_letter_id),
            output.time_text(letter.time),
            letter.queue,
            letter.type,
            "sent again" if letter.replayed else "",
            letter.reason,
        )
        for letter in found
    ]
    output.show_table(("id", "time", "queue", "type", "", "reason"), rows, right=(0,))


def replay(dead_letter_id: Annotated[int, typer.Argument(help="Its id, from `qonduit dead-letters ls`.")]) -> None:
    """Send a dead letter to its queue again."""
    with qonduit.ServerlessClient() as client:
        client.cluster.replay(dead_letter_id)
    output.say(f"Dead letter {dead_letter_id} was sent again.")
