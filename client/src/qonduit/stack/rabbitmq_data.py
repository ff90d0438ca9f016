"""The data folder of a private RabbitMQ node: who may use it, its ports and password, its configuration."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from qonduit.stack.rabbitmq_home import RabbitNodeError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOOPBACK = "127.0.0.1"
MEMORY_LIMIT_BYTES = 512 * 1024**2
"""Above it, the node blocks publishers until consumers have caught up."""
DISK_FREE_BYTES = 256 * 1024**2
"""Below it, the node blocks publishers."""
METRICS_PLUGIN = "rabbitmq_prometheus"
LOCK_TIMEOUT_S = 10.0
"""How long a start waits for the node of a supervisor that has just gone."""
_PORTS = range(20_000, 32_000)
_POLL_S = 0.02


class RabbitMQStartError(RabbitNodeError):
    """The node ended, or was not ready in time; the text says why and holds the end of its log."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What stays the same over restarts on the same data."""

    user: str
    password: str
    amqp_port: int
    dist_port: int


def free_port() -> int:
    """Return a TCP port on loopback that nobody listens on now.

    It is below those that the system gives to outgoing connections: a client that calls a dead node again and
    again would sooner or later be given the node's own port, and keep it.
    """
    while True:
        port = secrets.choice(_PORTS)
        if is_free(port):
            return port


def is_free(port: int) -> bool:
    """Whether a server could listen on a port of loopback."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def load_identity(folder: Path, wanted_port: int | None) -> Identity:
    """Read the identity kept in a folder, or make one; a port that was asked for wins, a taken one is changed."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / "node.json"
    if path.exists():
        known = Identity(**json.loads(path.read_text()))
    else:
        known = Identity("qonduit", secrets.token_urlsafe(24), free_port(), free_port())
    port = wanted_port or (known.amqp_port if is_free(known.amqp_port) else free_port())
    dist_port = known.dist_port if is_free(known.dist_port) else free_port()
    known = replace(known, amqp_port=port, dist_port=dist_port)
    write_secret(path, json.dumps(asdict(known)))
    return known


def write_config(folder: Path, me: Identity, metrics_port: int | None = None) -> None:
    """Write the node's configuration, as Erlang terms: the newer format is translated anew at each start."""
    # Statistics of queues are as old as this; nobody reads them where no metrics are served.
    interval_ms = 60_000 if metrics_port is None else 1000
    plugins = "" if metrics_port is None else METRICS_PLUGIN
    served = f',\n {{{plugins}, [{{tcp_config, [{{ip, "{LOOPBACK}"}}, {{port, {metrics_port}}}]}}]}}' if plugins else ""
    write_secret(
        folder / "rabbitmq.config",
        f"""[{{rabbit, [
  {{tcp_listeners, [{{"{LOOPBACK}", {me.amqp_port}}}]}},
  {{default_user, <<"{me.user}">>}}, {{default_pass, <<"{me.password}">>}}, {{loopback_users, []}},
  {{vm_memory_high_watermark, {{absolute, {MEMORY_LIMIT_BYTES}}}}}, {{disk_free_limit, {DISK_FREE_BYTES}}},
  {{collect_statistics_interval, {interval_ms}}}
]}}{served}].
""",
    )
    (folder / "enabled_plugins").write_text(f"[{plugins}].\n")


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Hold a data folder. A node is given the lock's file too, so that it lasts exactly as long as the node.

    Raises:
        RabbitMQStartError: A node runs on this folder.
    """
    file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _take(file, folder)
        yield file
    finally:
        os.close(file)


def _take(file: int, folder: Path) -> None:
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                text = f"another RabbitMQ node runs on {folder}: stop it, or use another folder."
                raise RabbitMQStartError(text) from None
            time.sleep(_POLL_S)
        else:
            return


def write_secret(path: Path, text: str) -> None:
    """Write a file so that nobody else can read it, and no reader sees half of it."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    temporary.replace(path)
