"""Private servers that the systems need: RabbitMQ, Redis. Each on a free loopback port, stopped whatever happens."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from qonduit.stack.rabbitmq import RabbitNode, free_port
from qonduit.stack.rabbitmq_home import find_rabbitmq

if TYPE_CHECKING:
    from collections.abc import Iterator

_READY_S = 20.0
_LOOK_S = 0.02
_USUAL_MEMORY = "vm_memory_monitor:set_vm_memory_high_watermark(0.4)."
"""What RabbitMQ has by itself: our node has less, since nothing large goes through it; the peers send 50 MB."""


class MissingServerError(Exception):
    """A server that a system needs is not installed."""


@contextmanager
def rabbitmq() -> Iterator[tuple[str, int]]:
    """Run a RabbitMQ node; gives its URL and process id."""
    with tempfile.TemporaryDirectory(prefix="bench-rabbitmq-") as folder:
        node = RabbitNode(Path(folder) / "node")
        node.start()
        try:
            node.control(_USUAL_MEMORY)
            yield node.url, node.pid or 0
        finally:
            node.stop()


@contextmanager
def redis() -> Iterator[tuple[str, int]]:
    """Run a Redis that keeps nothing on disk; gives its URL and process id.

    Raises:
        MissingServerError: It is not installed.
    """
    if shutil.which("redis-server") is None:
        raise MissingServerError("redis-server is missing; get it with: apt-get install redis-server")
    port = free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with tempfile.TemporaryDirectory(prefix="bench-redis-") as folder:
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
        try:
            _wait_for(port, process)
            yield f"redis://127.0.0.1:{port}/0", process.pid
        finally:
            process.terminate()
            process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _READY_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(_LOOK_S)
        else:
            return
    raise MissingServerError(f"redis-server did not listen on port {port} in {_READY_S:.0f} s")


def rabbitmq_version() -> str:
    """Return the version of the RabbitMQ that is used, such as "3.10.8"."""
    return find_rabbitmq().resolve().parent.name.rpartition("-")[2]


def redis_version() -> str:
    """Return the version of Redis, such as "7.0.15"."""
    if shutil.which("redis-server") is None:
        return "none"
    text = subprocess.run(["redis-server", "--version"], check=True, capture_output=True, text=True).stdout
    return text.partition("v=")[2].partition(" ")[0]
