"""`qonduit workers`, `queue`, `users`, `dead-letters`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

import qonduit
from qonduit.cli import output

if TYPE_CHECKING:
    from qonduit.cluster import Room

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(workers)
    app.command()(queue)
    users = typer.Typer(help="Users, for administrators.", no_args_is_help=True, rich_markup_mode=None)
    users.command("ls")(list_users)
    users.command("add")(add_user)
    app.add_typer(users, name="users")
    letters = typer.Typer(
        help="Messages that no service could handle, for administrators.", no_args_is_help=True, rich_markup_mode=None
    )
    letters.command("ls")(list_dead_letters)
    letters.command("replay")(replay)
    app.add_typer(letters, name="dead-letters")


def workers(*, as_json: AsJson = False) -> None:
    """List the workers and what is free on them."""
    with qonduit.ServerlessClient() as client:
        found = client.cluster.workers()
    if as_json:
        output.show_json(found)
        return
    rows = [
        (
            worker.worker_id,
            worker.hostname,
            _room_text(worker.free),
            _room_text(worker.capacity),
            str(worker.leases),
            worker.sandbox_tier,
            "draining" if worker.draining else "",
            output.time_text(worker.seen),
        )
        for worker in found
    ]
    head = ("worker", "machine", "free", "of", "leases", "sandbox", "", "heard")
    output.show_table(head, rows, right=(4,))


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
            entry.kind,
            str(entry.count),
            _room_text(entry.room),
            entry.why,
        )
        for entry in found
    ]
    output.show_table(("place", "job", "kind", "count", "needs", "why it waits"), rows, right=(0, 3))


def list_users(*, as_json: AsJson = False) -> None:
    """List the users."""
    with qonduit.ServerlessClient() as client:
        found = client.cluster.users()
    if as_json:
        output.show_json(found)
        return
    rows = [
        (user.name, "administrator" if user.administrator else "", output.time_text(user.created)) for user in found
    ]
    output.show_table(("user", "", "made"), rows)


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


def _room_text(room: Room) -> str:
    gpus = f", {room.gpus} GPU" if room.gpus else ""
    return f"{room.cpu:g} cpu, {output.mem_text(room.mem_bytes)}{gpus}"
