"""`qonduit users token`, `tokens` and `withdraw`: what lets a user in."""

from __future__ import annotations

from typing import Annotated

import typer

import qonduit
from qonduit.cli import output

Name = Annotated[str, typer.Argument(metavar="[NAME]", help="The user; without one, you.", show_default=False)]

_BOOTSTRAP_STAYS = (
    "The token in the file of the gateway's setting ADMIN_TOKEN_FILE still lets in: "
    "to withdraw it, put a new one into that file and restart the gateway."
)


def register(users: typer.Typer) -> None:
    """Add the commands to those about users."""
    users.command("token")(make_token)
    users.command("tokens")(list_tokens)
    users.command("withdraw")(withdraw)


def make_token(
    name: Name = "",
    *,
    label: Annotated[str, typer.Option(help="What it is for.", show_default=False)] = "",
    replace: Annotated[bool, typer.Option("--replace", help="Withdraw all others at the same moment.")] = False,
) -> None:
    """Make another token and print it; it is shown only now."""
    with qonduit.ServerlessClient() as client:
        made = client.cluster.make_token(name, label=label, replace=replace)
    if replace:
        output.note("1 other was withdrawn." if made.withdrawn == 1 else f"{made.withdrawn} others were withdrawn.")
        if made.bootstrap_stays:
            output.note(_BOOTSTRAP_STAYS)
    output.note(f"The token {made.listed.token_id} of {name or 'yours'}, shown only now:")
    output.say(made.text)


def list_tokens(
    name: Name = "", *, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """List a user's tokens by the ids that name them, oldest first; the tokens themselves are not kept."""
    with qonduit.ServerlessClient() as client:
        found = client.cluster.tokens(name)
    if as_json:
        output.show_json(found)
        return
    rows = [(token.token_id, token.label, output.time_text(token.created)) for token in found]
    output.show_table(("token", "label", "made"), rows)


def withdraw(
    which: Annotated[
        list[str], typer.Argument(metavar="[NAME] TOKEN-ID", help="The user; without one, you. And the token's id.")
    ],
) -> None:
    """Withdraw a token, by the id that `qonduit users tokens` lists; calls with it are refused at once."""
    if len(which) > 2:  # noqa: PLR2004 - A name and an id.
        raise typer.BadParameter("name one user at most, and one token", param_hint="[NAME] TOKEN-ID")
    *name, token_id = which
    with qonduit.ServerlessClient() as client:
        client.cluster.withdraw_token(token_id, *name)
    output.say(f"Token {token_id} is withdrawn.")
