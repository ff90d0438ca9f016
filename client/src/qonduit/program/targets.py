"""What a task needs of the machine it runs on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, SupportsFloat

DEFAULT_MEM_BYTES = 1024**3


@dataclass(frozen=True, slots=True)
class Target:
    """What a task needs: cpu in cores (may be fractional), mem in bytes, gpu in whole devices."""

    cpu: float = 1
    mem: int = DEFAULT_MEM_BYTES
    gpu: int = 0

    def __post_init__(self) -> None:
        """Refuse what no machine could give: raises ValueError."""
        if not 0.001 <= self.cpu <= 100_000:  # noqa: PLR2004 - A thousandth of a core is the unit.
            raise ValueError(f"target cpu must be a positive number of cores, not {self.cpu!r}")
        if self.mem < 16 * 1024**2:
            raise ValueError(f"target mem is in bytes and must be at least 16 MiB (16 * 1024**2), not {self.mem!r}")
        if self.gpu < 0:
            raise ValueError(f"target gpu must not be negative, not {self.gpu!r}")


def as_target(target: Target | Mapping[str, Any] | None) -> Target:
    """Return a target given in any of its forms.

    Raises:
        ValueError: It has an unknown key or an impossible number.
    """
    if target is None:
        return Target()
    if isinstance(target, Target):
        return target
    if not isinstance(target, Mapping):
        raise ValueError(  # noqa: TRY004 - The public client's users expect ValueError of a bad target.
            f"a target is a dict such as {{'cpu': 1, 'mem': 2 * 1024**3}}, or a Target, not {target!r}"
        )
    known = {"cpu", "mem", "gpu", "qpu"}  # The public client stores qpu and never uses it; so do we.
    if unknown := set(target) - known:
        raise ValueError(f"target has no {min(unknown)!r}; its keys are 'cpu' (cores), 'mem' (bytes) and 'gpu'")
    numbers = {"cpu": target.get("cpu", 1), "mem": target.get("mem") or DEFAULT_MEM_BYTES, "gpu": target.get("gpu", 0)}
    for key, value in numbers.items():
        if isinstance(value, str) or not isinstance(value, SupportsFloat):
            raise ValueError(  # noqa: TRY004 - See above.
                f"target {key!r} is a number, not {value!r}; cpu is in cores and mem in bytes: 2 GiB is 2 * 1024**3"
            )
    return Target(cpu=float(numbers["cpu"]), mem=int(numbers["mem"]), gpu=int(numbers["gpu"]))
