"""The environment variables that a sandboxed program sees."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from qonduit_service_kit.messages import LeaseKind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qonduit_service_kit.messages import JobSpec, Shape

    from qonduit_worker.sandbox import InsidePaths

_THREAD_SETTINGS: Final = (
    "RAYON_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
    "QISKIT_NUM_PROCS",
)
STEADY: Final = {"PYTHONHASHSEED": "0"}
"""Sets have the same order each time: QPY writes some, and a program that runs again gets the QPU jobs back that it has
paid for only where it posts the same bytes."""
_NO_SIZES: Final = {"ENV_JOB_FUNCTION_SIZE": "", "ENV_JOB_COMPUTE_PROFILE": ""}
"""What Qiskit Serverless tells of a run's size: its functions have sizes, and ours targets."""
_MILLIS: Final = 1000
_PATH: Final = "/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True, slots=True)
class Occupant:
    """Who runs in a sandbox."""

    kind: LeaseKind
    job_id: str
    attempt: int
    shape: Shape
    entrypoint: str = ""
    provided: bool = False
    """Whether it finds files of its function's provider."""


def own_variables(spec: JobSpec) -> dict[str, str]:
    """Return the variables of a job's own, which its tasks get too: its function's, and whether it is a trial."""
    return {**spec.environment, "ENV_ACCESS_TRIAL": str(spec.trial)}


def program_environment(
    occupant: Occupant, paths: InsidePaths, *, qpu: Mapping[str, str], own: Mapping[str, str]
) -> dict[str, str]:
    """Return all variables.

    Args:
        occupant: Who runs.
        paths: Where it finds its folders.
        qpu: What the QPU endpoint adds.
        own: What the function's author set; it wins over all but what the job's own machinery needs.
    """
    return {
        "PATH": f"{paths.layer}/bin:{_PATH}" if paths.layer is not None else _PATH,
        "HOME": str(paths.tmp),
        "TMPDIR": str(paths.tmp),
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        **STEADY,
        **_NO_SIZES,
        **_thread_settings(occupant.shape),
        **qpu,
        **own,
        **_modules(paths, own.get("PYTHONPATH", "")),
        **_identity(occupant, paths),
    }


def _modules(paths: InsidePaths, own: str) -> dict[str, str]:
    """Let interpreters that a program starts find its layer too; its own process has it on its path already."""
    if paths.layer is None:
        return {}
    return {"PYTHONPATH": f"{own}:{paths.layer}" if own else str(paths.layer)}


def threads_of(shape: Shape) -> int:
    """Return how many threads a library should start: the cores asked for, a part of one counted as one."""
    return max(1, math.ceil(shape.cpu_millis / _MILLIS))


def _thread_settings(shape: Shape) -> dict[str, str]:
    threads = threads_of(shape)
    settings = dict.fromkeys(_THREAD_SETTINGS, str(threads))
    if threads == 1:
        settings["QISKIT_PARALLEL"] = "FALSE"
    return settings


def _identity(occupant: Occupant, paths: InsidePaths) -> dict[str, str]:
    identity = {
        "QONDUIT_AGENT_SOCKET": str(paths.agent_socket),
        "QONDUIT_JOB_ID": occupant.job_id,
        "QONDUIT_ATTEMPT": str(occupant.attempt),
        "QONDUIT_KIND": occupant.kind.value.lower(),
        "QONDUIT_JOB_FOLDER": str(paths.job),
        "ENV_JOB_ID_GATEWAY": occupant.job_id,
        "ENV_JOB_ARGUMENTS": "{}",  # As that server has it: they are in the file.
        "DATA_PATH": str(paths.data),
    }
    if occupant.provided:
        identity["FUNCTION_DATA_PATH"] = str(paths.function_data)
    if occupant.kind is LeaseKind.DRIVER:
        identity["QONDUIT_ENTRYPOINT"] = occupant.entrypoint
        identity["ARGUMENTS_PATH"] = str(paths.agent_socket.parent / "arguments.json")
        # On disk, as memory is counted, and under a name that no function brings along.
        identity["RESULTS_PATH"] = str(paths.job / f".result-{occupant.job_id}.json")
    return identity
