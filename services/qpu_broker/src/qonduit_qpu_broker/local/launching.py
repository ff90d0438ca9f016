"""How processes of the simulator are started: with limits, and an environment that holds no secret."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Limits:
    """What one simulator process may use."""

    max_qubits: int
    memory_bytes: int
    time_limit_s: float
    threads: int
    hidden: tuple[Path, ...] = ()
    """The broker's own files, which it must not find."""


async def launch(limits: Limits, scratch: Path, *more: str) -> asyncio.subprocess.Process:
    """Start a process that talks by pipes; it ends with this one."""
    await asyncio.to_thread(scratch.mkdir, parents=True, exist_ok=True)
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "qonduit_qpu_broker.simulator"),
        *("--max-qubits", str(limits.max_qubits)),
        *("--memory-bytes", str(limits.memory_bytes)),
        *("--parent", str(os.getpid())),
        *(argument for path in limits.hidden for argument in ("--hide", str(path.absolute()))),
        *more,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=_environment(limits, scratch),
        cwd="/",
    )


def _environment(limits: Limits, scratch: Path) -> dict[str, str]:
    """Return only what Python and the maths libraries need."""
    threads = str(limits.threads)
    return {
        "PATH": os.defpath,
        "HOME": str(scratch.absolute()),
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "RAYON_NUM_THREADS": threads,
        "QISKIT_PARALLEL": "FALSE",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
