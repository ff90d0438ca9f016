"""What a job asks for."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import InitVar, dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

LEAST_MEM_BYTES: Final = 16 * 1024**2
"""No Python program starts in less; who asks for less most likely thought of another unit."""


class IgnoredSettingWarning(UserWarning):
    """A setting that other systems know has no meaning here."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """What a job asks for; whatever is left out is the server's default: 1 cpu, 2 GiB and a day unless it was changed.

    `workers`, `min_workers`, `max_workers` and `auto_scaling` are taken and ignored: tasks find room on every
    worker by themselves.

    Attributes:
        cpu: Cores of the driver program, such as 1 or 0.5; tasks ask for their own.
        mem: Memory of the driver program, in bytes, such as 4 * 1024**3. A program that uses more is ended.
        gpus: Whole GPUs of the driver program.
        time_limit_s: Seconds the job may run.
        priority: Larger goes first among the user's own jobs.
        qpu_budget_s: Most QPU seconds that the job may be charged; 0 for no limit but the user's.
        files: Names of the user's files that program and tasks find in /data; None for all of them. Who has large
            files and needs few names those, and the job starts the sooner.

    Raises:
        ValueError: A value makes no sense; the text says which and why.
        TypeError: `files` is one name in place of a list, or holds what is no name.
    """

    workers: InitVar[int | None] = None
    min_workers: InitVar[int | None] = None
    max_workers: InitVar[int | None] = None
    auto_scaling: InitVar[bool] = False
    cpu: float = 0
    mem: int = 0
    gpus: int = 0
    time_limit_s: float = 0
    priority: int = 0
    qpu_budget_s: float = 0
    files: Sequence[str] | None = None

    def __post_init__(
        self, workers: int | None, min_workers: int | None, max_workers: int | None, auto_scaling: bool
    ) -> None:
        if workers or min_workers or max_workers or auto_scaling:
            warnings.warn(
                "Numbers of workers are ignored: tasks find room on every worker by themselves.",
                IgnoredSettingWarning,
                stacklevel=3,
            )
        if self.files is not None:
            object.__setattr__(self, "files", _names(self.files))
        for name in ("cpu", "mem", "gpus", "time_limit_s", "qpu_budget_s"):
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0:
                raise ValueError(f"{name} must not be negative, and is {value}.")
        if 0 < self.mem < LEAST_MEM_BYTES:
            raise ValueError(
                f"mem is in bytes, and {self.mem} is too little for any program: write mem=4 * 1024**3 for 4 GiB."
            )


def _names(files: object) -> list[str]:
    if isinstance(files, str):
        raise TypeError(f"files is a list of names: write files=[{files!r}].")
    if not isinstance(files, Iterable):
        raise TypeError(f"files is a list of names, as client.files() returns them, and not {files!r}.")
    names = list(files)
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise TypeError(f"files is a list of names, as client.files() returns them, and {wrong[0]!r} is no text.")
    return names
