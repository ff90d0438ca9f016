"""Qonduit in real containers, built and started once, for all tests of this folder."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from compose_control import ROOT, Deployment
from container_engine import engine_environment
from qonduit import Configuration, QiskitFunction, ServerlessClient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qonduit import Job


@pytest.fixture(scope="session")
def engine() -> Iterator[dict[str, str]]:
    # Pytest's own folders have names too long for sockets.
    with tempfile.TemporaryDirectory(prefix="qonduit-e2e-") as folder:
        yield from engine_environment(Path(folder))


@pytest.fixture(scope="session")
def deployment(engine: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    running = Deployment(tmp_path_factory.mktemp("deployment") / "secrets", engine)
    subprocess.run([ROOT / "deploy" / "make_secrets.sh"], env=running.environment, check=True, timeout=60)
    running.build()
    running.down()  # What a run that was killed left.
    try:
        running.up()
        yield running
    finally:
        running.down()


@pytest.fixture(scope="session")
def client(deployment: Deployment) -> Iterator[ServerlessClient]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QONDUIT_CA_FILE", str(deployment.secrets / "ca.pem"))
        yield deployment.client()


@pytest.fixture
def submit(client: ServerlessClient, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., Job]:
    """Return a function that uploads a program's text and runs it."""

    def submit(text: str, config: Configuration | None = None, **arguments: object) -> Job:
        (tmp_path / "program.py").write_text(text)
        title = "".join(c if c.isalnum() else "-" for c in request.node.name)[:80]
        function = client.upload(QiskitFunction(title=title, entrypoint="program.py", working_dir=str(tmp_path)))
        return function.run(config=config, **arguments)

    return submit


@pytest.fixture
def tell(client: ServerlessClient, tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Return a function that lets a program go on that waits for a file of this name (see `programs.WAIT`)."""
    import tarfile  # noqa: PLC0415 - only a tar may be uploaded.

    told: list[str] = []

    def tell(name: str) -> None:
        with tarfile.open(tmp_path / name, "w"):
            pass
        client.file_upload(str(tmp_path / name))
        told.append(name)

    yield tell
    for name in told:
        client.file_delete(name)
