"""The worker of a system that is started by a command of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_STOP_S = 20.0


class WorkerProcess:
    """A command of the peers' environment that runs until it is stopped; safe to stop twice."""

    def __init__(self, command: str, *arguments: str, **environment: str) -> None:
        path = str(Path(sys.executable).with_name(command))
        self._process = subprocess.Popen(
            [path, *arguments], env={**os.environ, **environment}, stdout=subprocess.DEVNULL
        )

    def stop(self) -> None:
        """Tell it to end in order, and kill it if it doesn't."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
