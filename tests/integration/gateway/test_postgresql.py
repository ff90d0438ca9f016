"""The tests of the gateway's database, on a real PostgreSQL."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from gateway_book import book

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["book"]  # A fixture.
SUITES = ("test_database", "test_task_book", "test_qpu_book")
FOLDER = Path(__file__).parents[3] / "services" / "gateway" / "tests"
START_TIMEOUT_S = "60"


def _load(name: str) -> None:
    """Collect a suite's tests here, where `database_url` is PostgreSQL's."""
    spec = importlib.util.spec_from_file_location(f"gateway_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    suite = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(suite)
    globals().update({name: value for name, value in vars(suite).items() if name.startswith("test_")})


for suite_name in SUITES:
    _load(suite_name)


def _programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    if found:
        return found[-1].parent
    if on_path:
        return Path(on_path).parent
    text = "PostgreSQL is missing: apt-get install postgresql"
    if os.environ.get("CI", "").lower() in {"1", "true"}:
        pytest.fail(text)
    pytest.skip(text)


def _owner() -> str | None:
    """Return the user to run the server as: it refuses to be root."""
    if os.geteuid() != 0:
        return None
    return next((user.pw_name for user in pwd.getpwall() if user.pw_name == "postgres"), "nobody")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A private server on a free loopback port; its URL without a database."""
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
    run("initdb", "-D", data, "-U", "qonduit", "--auth=trust", "--no-sync", "-E", "UTF8")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
    run("pg_ctl", "-D", data, "-w", "-t", START_TIMEOUT_S, "-l", str(folder / "log"), "-o", options, "start")
    yield f"postgresql://qonduit@127.0.0.1:{port}"
    run("pg_ctl", "-D", data, "-m", "immediate", "stop")
    shutil.rmtree(folder, ignore_errors=True)
    (folder.parent / f"{folder.name}.out").unlink(missing_ok=True)


@pytest.fixture
def database_url(server: str) -> str:
    name = f"t{uuid.uuid4().hex}"
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return f"{server}/{name}"
