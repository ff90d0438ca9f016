"""`qonduit grant ...` and `qonduit groups ...`: who may do what with functions that are published."""

from __future__ import annotations

from typing import Annotated

import typer

import qonduit
from qonduit.cli import output

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[str, typer.Argument(metavar="PROVIDER[/TITLE]", help="All of a provider's functions, or one.")]
Role = Annotated[
    str,
    typer.Argument(
        metavar="ROLE",
        help="READ (see it), RUN, TRIAL (run it as a trial), LOGS (its jobs, and what they tell the provider), "
        "FILES (the provider's files), or ADMIN (everything).",
    ),
]
User = Annotated[str | None, typer.Option(help="To this user.")]
InGroup = Annotated[str | None, typer.Option(help="To the members of this group.")]
Everyone = Annotated[bool, typer.Option("--everyone", help="To every user.")]
GroupName = Annotated[str, typer.Argument(metavar="GROUP", help="The group.")]
UserName = Annotated[str, typer.Argument(metavar="USER", help="The user.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    grant = typer.Typer(
        help="Who may do what with a provider's functions.", no_args_is_help=True, rich_markup_mode=None
    )
    for name, command in (("add", add), ("rm", remove), ("ls", list_grants)):
        grant.command(name)(command)
    app.add_typer(grant, name="grant")
    groups = typer.Typer(help="Groups of users, made by administrators.", no_args_is_help=True, rich_markup_mode=None)
    for name, of_groups in (("ls", list_groups), ("create", create), ("add", add_member), ("rm", remove_member)):
        groups.command(name)(of_groups)
    app.add_typer(groups, name="groups")


def add(name: Name, role: Role, *, user: User = None, group: InGroup = None, everyone: Everyone = False) -> None:
    """Grant a role to a user, a group, or everyone."""
    _check(role, user, group, everyone=everyone)
    with qonduit.ServerlessClient() as client:
        granted = client.providers.grant(name, role, user=user, group=group, everyone=everyone)
    output.say(f"{granted.role} at {granted.name} is granted to {granted.grantee}.")


def remove(name: Name, role: Role, *, user: User = None, group: InGroup = None, everyone: Everyone = False) -> None:
    """Take a role back, from the next call on; jobs that were accepted go on."""
    _check(role, user, group, everyone=everyone)
    with qonduit.ServerlessClient() as client:
        client.providers.revoke(name, role, user=user, group=group, everyone=everyone)
    whom = "everyone" if everyone else f"user {user}" if user else f"group {group}"
    output.say(f"{role.upper()} at {name} is no more granted to {whom}.")


def list_grants(name: Name, *, as_json: AsJson = False) -> None:
    """List what is granted to whom."""
    with qonduit.ServerlessClient() as client:
        found = client.providers.grants(name)
    if as_json:
        output.show_json(found)
        return
    rows = [(each.name, each.role, each.grantee, each.granted_by, output.time_text(each.granted)) for each in found]
    output.show_table(("at", "role", "to", "by", "since"), rows)


def list_groups(*, as_json: AsJson = False) -> None:
    """List the groups that you are in; administrators see all of them, and who is in them."""
    with qonduit.ServerlessClient() as client:
        found = client.providers.groups()
    if as_json:
        output.show_json(found)
        return
    if any(each.members for each in found):
        rows = [(each.name, output.time_text(each.created), ", ".join(each.members)) for each in found]
        output.show_table(("group", "made", "members"), rows)
    else:  # Only administrators are told members: an empty column would tell others that there are none.
        output.show_table(("group", "made"), [(each.name, output.time_text(each.created)) for each in found])


def create(group: GroupName) -> None:
    """Make a group; for administrators."""
    with qonduit.ServerlessClient() as client:
        client.providers.create_group(group)
    output.say(f"{group} has no members yet.")


def add_member(group: GroupName, user: UserName) -> None:
    """Put a user into a group; for administrators."""
    with qonduit.ServerlessClient() as client:
        client.providers.add_member(group, user)
    output.say(f"{user} is in {group}.")


def remove_member(group: GroupName, user: UserName) -> None:
    """Take a user out of a group; for administrators."""
    with qonduit.ServerlessClient() as client:
        client.providers.remove_member(group, user)
    output.say(f"{user} is not in {group} any more.")


def _check(role: str, user: str | None, group: str | None, *, everyone: bool) -> None:
    if [bool(user), bool(group), everyone].count(True) != 1:
        raise typer.BadParameter("say to whom: --user, --group or --everyone")
    from qonduit.roles import role_of  # noqa: PLC0415 - It brings protobuf along, which --help needs not.

    try:
        role_of(role)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="ROLE") from error
