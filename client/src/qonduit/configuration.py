"""What a job asks for."""

from __future__ import annotations

import warnings
from dataclasses import InitVar, dataclass


class IgnoredSettingWarning(UserWarning):
    """A setting that other systems know has no meaning here."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """What a job asks for; whatever is left out is the server's default.

    `workers`, `min_workers`, `max_workers` and `auto_scaling` are taken and ignored: tasks find room on every
    worker by themselves.

    Attributes:
        cpu: Cores of the driver program, such as 1 or 0.5; tasks ask for their own.
        mem: Memory of the driver program, in bytes. A program that uses more is ended.
        gpus: Whole GPUs of the driver program.
        time_limit_s: Seconds the job may run.
        priority: Larger goes first among the user's own jobs.
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

    def __post_init__(
        self, workers: int | None, min_workers: int | None, max_workers: int | None, auto_scaling: bool
    ) -> None:
        if workers or min_workers or max_workers or auto_scaling:
            warnings.warn(
                "Numbers of workers are ignored: tasks find room on every worker by themselves.",
                IgnoredSettingWarning,
                stacklevel=3,
            )
        for name in ("cpu", "mem", "gpus", "time_limit_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, it is {getattr(self, name)}.")
