"""A stack of its own for a benchmark."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qonduit import ServerlessClient


@dataclass(frozen=True, slots=True)
class OwnStack:
    """Where it is, and who may use it."""

    address: str
    token: str
    services: dict[str, Any]
    """What the supervisor knows of each: `pid`, `ports`."""

    def client(self) -> ServerlessClient:
        """Return a client of its own user."""
        from qonduit import ServerlessClient  # noqa: PLC0415 - So that --help of a benchmark is quick.

        return ServerlessClient(host=self.address, token=self.token)

    def upload(self, title: str, program: str, folder: Path) -> None:
        """Upload a function of one file, which is written into a new folder."""
        from qonduit import QiskitFunction  # noqa: PLC0415 - As above.

        folder.mkdir()
        (folder / "program.py").write_text(program)
        with self.client() as client:
            client.upload(QiskitFunction(title=title, entrypoint="program.py", working_dir=str(folder)))


@contextmanager
def own_stack(data_dir: Path, *options: str, **environment: str) -> Iterator[OwnStack]:
    """Run a stack, with these options of `qonduit up`."""
    qonduit = str(Path(sys.executable).with_name("qonduit"))
    told = {**os.environ, "QONDUIT_PROFILE": str(data_dir / "profile.json"), **environment}
    where = ["--data-dir", str(data_dir)]
    subprocess.run([qonduit, "up", "--detach", *options, *where], env=told, check=True, stdout=subprocess.DEVNULL)
    try:
        profile = json.loads((data_dir / "profile.json").read_text())
        services = json.loads((data_dir / "stack.json").read_text())["services"]
        yield OwnStack(profile["address"], profile["token"], services)
    finally:
        subprocess.run([qonduit, "down", *where], env=told, check=False, stdout=subprocess.DEVNULL)
