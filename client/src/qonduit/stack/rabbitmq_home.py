"""Finding an installed RabbitMQ, and a lean view of it that starts in half the time.

RabbitMQ puts every plugin it ships with, some seventy folders, on Erlang's code path, and Erlang asks each
folder in turn for each of the thousand modules it loads. The lean view holds the installation's own scripts
and, of its plugins, those that the broker needs.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_INSTALLED = (
    "/usr/lib/rabbitmq",
    "/usr/lib64/rabbitmq",
    "/usr/local/lib/rabbitmq",
    "/opt",
    "/opt/rabbitmq",
    "/usr/local/opt/rabbitmq",
    "/opt/homebrew/opt/rabbitmq",
)
_ROOTS = ("rabbit", "rabbitmq_prelaunch")
_APPLICATIONS = re.compile(r"\{\s*applications\s*,\s*\[(.*?)\]", re.DOTALL)


class RabbitNodeError(Exception):
    """The private RabbitMQ node did not do what it was asked to."""


class RabbitMQMissingError(RabbitNodeError):
    """RabbitMQ is not installed."""

    def __init__(self) -> None:
        super().__init__(
            "rabbitmq-server was not found. Install it (Debian, Ubuntu: `sudo apt-get install rabbitmq-server`; "
            "macOS: `brew install rabbitmq`), or use a running broker with `qonduit up --amqp-url URL`."
        )


def find_rabbitmq() -> Path:
    """Return the folder of RabbitMQ's own scripts; RabbitMQMissingError if there is none."""
    for path in _candidates():
        if (path / "rabbitmq-env").exists() and os.access(path / "rabbitmq-server", os.X_OK):
            return path
    raise RabbitMQMissingError


def _candidates() -> Iterator[Path]:
    # Distributions put a wrapper on PATH that changes to the user `rabbitmq` and its fixed folders, and refuses
    # everybody but root; the scripts it calls are below lib.
    for root in map(Path, _INSTALLED):
        yield from sorted(root.glob("lib/rabbitmq_server-*/sbin"), reverse=True)
        yield from sorted(root.glob("rabbitmq_server-*/sbin"), reverse=True)
        yield root / "sbin"
    on_path = shutil.which("rabbitmq-server")
    if on_path:
        yield Path(on_path).resolve().parent


def lean_home(scripts: Path, home: Path, plugins: Iterable[str] = ()) -> Path:
    """Make a home in the folder `home` that shows only what a broker with these plugins needs; return its scripts."""
    shutil.rmtree(home, ignore_errors=True)
    (home / "sbin").mkdir(parents=True)
    (home / "plugins").mkdir()
    for script in scripts.iterdir():
        (home / "sbin" / script.name).symlink_to(script.resolve())
    for folder in _needed(scripts.resolve().parent / "plugins", plugins):
        (home / "plugins" / folder.name).symlink_to(folder)
    return home / "sbin"


def _needed(plugins: Path, wanted: Iterable[str]) -> Iterator[Path]:
    """The folders of the broker, of the plugins wanted, and of everything their applications ask for."""
    folders = {folder.name.partition("-")[0]: folder for folder in plugins.iterdir() if folder.is_dir()}
    todo, seen = [*_ROOTS, *wanted], set[str]()
    while todo:
        name = todo.pop()
        if name in seen or name not in folders:
            continue
        seen.add(name)
        yield folders[name]
        described = folders[name] / "ebin" / f"{name}.app"
        asked = _APPLICATIONS.search(described.read_text()) if described.exists() else None
        todo += re.findall(r"\w+", asked[1]) if asked else []
