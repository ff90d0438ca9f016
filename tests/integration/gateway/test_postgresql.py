"""The tests of the gateway's database, on a real PostgreSQL."""

from __future__ import annotations

import importlib.util
import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from gateway_book import book
from qonduit_service_kit.private_postgresql import PostgresqlMissingError, private_postgresql

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["book"]  # A fixture.
SUITES = ("test_database", "test_task_book", "test_qpu_book")
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
