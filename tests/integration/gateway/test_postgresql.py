"""The tests of the gateway's database, on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import threading
import uuid
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from gateway_book import book
from qonduit_gateway.database import user_rows
from qonduit_gateway.database.engine import DatabaseUnavailableError
from qonduit_service_kit.private_postgresql import PostgresqlMissingError, private_postgresql
from sqlalchemy.exc import DBAPIError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway_book import Book
    from sqlalchemy import Connection

__all__ = ["book"]  # A fixture.
SUITES = (
    "test_database",
    "test_task_book",
    "test_qpu_book",
    "test_provider_book",
    "test_job_limits",
    "test_told_errors",
    "test_user_book",
)
FOLDER = Path(__file__).parents[3] / "services" / "gateway" / "tests"


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


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A private server on a free loopback port; its URL without a database."""
    try:
        with private_postgresql() as url:
            yield url
    except PostgresqlMissingError as error:
        if os.environ.get("CI", "").lower() in {"1", "true"}:
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture
def database_url(server: str) -> str:
    name = f"t{uuid.uuid4().hex}"
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return f"{server}/{name}"


async def test_a_connection_that_breaks_within_a_part_is_lost_for_the_whole_group(book: Book) -> None:
    """As when the server is restarted: callers try again on this error, and on no other."""
    begun, go_on = threading.Event(), threading.Event()

    def hold(_connection: Connection) -> None:
        begun.set()
        go_on.wait(30)

    def end_connection(connection: Connection) -> None:
        with suppress(DBAPIError):
            connection.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")
        user_rows.all_users(connection)

    holding = asyncio.create_task(book.database.write(hold))
    await asyncio.to_thread(begun.wait, 30)
    works = user_rows.all_users, end_connection, user_rows.all_users
    asked = [asyncio.create_task(book.database.write(work)) for work in works]
    await asyncio.sleep(0)  # So that all three are asked for.
    go_on.set()
    await holding
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(each, DatabaseUnavailableError) for each in outcomes), outcomes
    assert [user.name for user in await book.database.write(user_rows.all_users)] == ["ada"]
