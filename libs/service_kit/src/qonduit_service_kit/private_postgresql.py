"""A private PostgreSQL server on loopback, for tests and benchmarks."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_START_TIMEOUT_S: Final = "60"


class PostgresqlMissingError(Exception):
    """There is no PostgreSQL on this machine."""


def _programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    if found:
        return found[-1].parent
    if on_path:
        return Path(on_path).parent
    raise PostgresqlMissingError("PostgreSQL is missing: apt-get install postgresql")


def _owner() -> str | None:
    """Return the user to run the server as: it refuses to be root."""
    if os.geteuid() != 0:
        return None
    return next((user.pw_name for user in pwd.getpwall() if user.pw_name == "postgres"), "nobody")


@contextmanager
def private_postgresql(*, durable: bool = False) -> Iterator[str]:
    """Run a server on a free port of loopback, and yield its URL without a database, whose user may do all.

    Args:
        durable: Whether commits are on the disk when they are told; tests don't need it.

    Raises:
        PostgresqlMissingError: It is not installed.
    """
    programs, owner = _programs(), _owner()
    folder = Path(tempfile.mkdtemp(prefix="qonduit-postgresql-"))
    if owner is not None:
        shutil.chown(folder, owner)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def run(program: str, *arguments: str) -> None:
        # Its output goes to a file: the server inherits it, and a pipe would never end.
        with (folder.parent / f"{folder.name}.out").open("ab") as out:
            command = [str(programs / program), *arguments]
            subprocess.run(command, user=owner, cwd="/", stdout=out, stderr=out, check=True, timeout=120)

    data = str(folder / "data")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
    run("initdb", "-D", data, "-U", "qonduit", "--auth=trust", "--no-sync", "-E", "UTF8")
    options += "" if durable else " -c fsync=off"
    run("pg_ctl", "-D", data, "-w", "-t", _START_TIMEOUT_S, "-l", str(folder / "log"), "-o", options, "start")
    try:
        yield f"postgresql://qonduit@127.0.0.1:{port}"
    finally:
        run("pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)
        (folder.parent / f"{folder.name}.out").unlink(missing_ok=True)
