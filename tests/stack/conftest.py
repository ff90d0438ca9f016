"""A whole stack, started as a user starts it, for all tests of this folder."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING

import pytest
from qonduit import Configuration, QiskitFunction, ServerlessClient
from stack_control import Stack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from qonduit import Job


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of wheels, all that the stack's functions may depend on beside what is installed."""
    return tmp_path_factory.mktemp("wheels")


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, wheels: Path) -> Iterator[Stack]:
    settings = {
        "QONDUIT_WORKER_DEPENDENCY_FIND_LINKS": json.dumps([str(wheels)]),
        "QONDUIT_WORKER_DEPENDENCY_NO_INDEX": "true",
    }
    running = Stack(tmp_path_factory.mktemp("stack"), environment=settings)
    running.up()
    yield running
    running.down()


@pytest.fixture(scope="session")
def client(stack: Stack) -> ServerlessClient:
    return stack.client()


@pytest.fixture
def submit_to(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Callable[..., Job]:
    """Return a function that uploads a program's text to a client's stack and runs it."""
    tmp_path = tmp_path_factory.mktemp("program")

    def submit(client: ServerlessClient, text: str, config: Configuration | None = None, **arguments: object) -> Job:
        (tmp_path / "program.py").write_text(text)
        title = "".join(c if c.isalnum() else "-" for c in request.node.name)[:80]
        function = client.upload(QiskitFunction(title=title, entrypoint="program.py", working_dir=str(tmp_path)))
        return function.run(config=config, **arguments)

    return submit


@pytest.fixture
def submit(client: ServerlessClient, submit_to: Callable[..., Job]) -> Callable[..., Job]:
    """Return a function that uploads a program's text and runs it."""
    return partial(submit_to, client)
