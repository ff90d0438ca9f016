"""Whose profile is whose: the stack's own, and the user's, which may belong to another server."""

from __future__ import annotations

import shlex
import socket
from typing import TYPE_CHECKING, Final

from qonduit.exceptions import ConfigurationError
from qonduit.settings import (
    known_target,
    profile_data_dir,
    read_profile,
    user_profile_path,
    winning_variables,
    write_profile,
)
from qonduit.stack import state as states
from qonduit.stack.layout import Layout

if TYPE_CHECKING:
    from pathlib import Path

    from qonduit.settings import Target

_PROBE_S: Final = 1.0


def write(layout: Layout, target: Target) -> str:
    """Write the stack's own profile, and the user's unless it is that of another server.

    Returns:
        How clients reach this stack, if they don't by themselves; otherwise nothing.
    """
    write_profile(layout.profile, target, layout.data_dir)
    users = user_profile_path()
    if users != layout.profile and not _is_taken(users, layout):
        write_profile(users, target, layout.data_dir)
    try:
        found = known_target()
    except ConfigurationError:  # A damaged profile of yet another stack, which QONDUIT_HOME names.
        found = None
    if found is not None and found.host_port == target.host_port:
        return ""
    named = f" ({found.origin} names {found.address})" if found else ""
    before = f"unset {' '.join(names)}; " if (names := winning_variables()) else ""
    return f"reach it from clients{named} by: {before}export QONDUIT_HOME={shlex.quote(str(layout.data_dir))}"


def users_stack() -> Layout | None:
    """Return the running stack of this machine that the user's profile names, if there is one."""
    folder = profile_data_dir(user_profile_path())
    layout = Layout(folder) if folder else None
    return layout if layout and states.read(layout.state_file).running else None


def _is_taken(profile: Path, layout: Layout) -> bool:
    """Whether a profile names a server elsewhere, or another stack that runs now; what is stale or damaged is not."""
    try:
        target = read_profile(profile)
    except ConfigurationError:
        return False
    if target is None:
        return False
    folder = profile_data_dir(profile)
    if folder is not None:
        return folder != layout.data_dir and states.read(Layout(folder).state_file).running
    return not target.on_this_machine or _answers(target)


def _answers(target: Target) -> bool:
    host, _, port = target.host_port.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_PROBE_S):
            return True
    except (OSError, ValueError):
        return False
