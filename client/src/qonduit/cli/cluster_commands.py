"""`qonduit workers`, `worker`, `queue`, `dead-letters`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

import qonduit
from qonduit.cli import output
from qonduit.cli.sizes import age_text, room_text

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
