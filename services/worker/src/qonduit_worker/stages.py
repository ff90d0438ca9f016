"""Which stage a driver is in and what each stage has used: pure, with time and readings as parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qonduit_service_kit.messages import QpuState, Stage, StageUsage

if TYPE_CHECKING:
    from qonduit_service_kit.messages import QpuTransition


@dataclass(frozen=True, slots=True)
class Reading:
    """What the kernel told about a driver at one moment."""

    at: float
    """Monotonic seconds."""
    cpu_s: float
    """CPU time of all its processes since it started."""
    mem_bytes: int
    """What it holds now."""
    peak_mem_bytes: int
    """The most it has held since it started."""


@dataclass(slots=True)
class _Totals:
    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_mem_bytes: int = 0


class StageClock:
    """Books time to stages.

    The program says its own stage. While one of its QPU jobs is pending the stage is WAITING_FOR_QPU or
    EXECUTING_QPU whatever the program said; after the last one it is the program's own again.
    """

    def __init__(self, start: Reading) -> None:
        self._own = Stage.NONE
        self._stage = Stage.NONE
        self._last = start
        self._totals: dict[Stage, _Totals] = {Stage.NONE: _Totals()}
        self._pending: dict[str, QpuState] = {}
        self._seen: dict[str, int] = {}

    @property
    def stage(self) -> Stage:
        """The present stage."""
        return self._stage

    def book_until(self, reading: Reading) -> float:
        """Book what was used since the last reading to the present stage; returns the CPU seconds booked."""
        totals = self._of(self._stage)
        totals.wall_s += max(0.0, reading.at - self._last.at)
        cpu_s = max(0.0, reading.cpu_s - self._last.cpu_s)
        totals.cpu_s += cpu_s
        # The kernel keeps one peak for the whole life: it is this stage's when it rose during it.
        rose = reading.peak_mem_bytes > self._last.peak_mem_bytes
        peak = reading.peak_mem_bytes if rose else reading.mem_bytes
        totals.peak_mem_bytes = max(totals.peak_mem_bytes, peak)
        self._last = reading
        return cpu_s

    def book_task(self, stage: Stage, cpu_s: float, peak_mem_bytes: int) -> None:
        """Book a task to the stage that it was submitted in."""
        totals = self._of(stage)
        totals.cpu_s += cpu_s
        totals.peak_mem_bytes = max(totals.peak_mem_bytes, peak_mem_bytes)

    def program_says(self, stage: Stage, reading: Reading) -> bool:
        """Take the program's own stage; True when the present stage changed."""
        self._own = stage
        return self._change(reading)

    def qpu_says(self, transition: QpuTransition, reading: Reading) -> bool:
        """Take a step of a QPU job, once each; True when it is new, whether or not the present stage changed."""
        job = transition.qpu_job_id
        if transition.sequence <= self._seen.get(job, -1):
            return False
        self._seen[job] = transition.sequence
        if transition.state.final:
            self._pending.pop(job, None)
        else:
            self._pending[job] = transition.state
        self._change(reading)
        return True

    def usage(self) -> tuple[StageUsage, ...]:
        """Absolute totals of each stage that there was, in the order of their first time."""
        return tuple(
            StageUsage(
                stage=stage,
                wall_s=round(totals.wall_s, 6),
                cpu_s=round(totals.cpu_s, 6),
                peak_mem_bytes=totals.peak_mem_bytes,
            )
            for stage, totals in self._totals.items()
        )

    def _change(self, reading: Reading) -> bool:
        wanted = self._own
        if self._pending:
            running = QpuState.RUNNING in self._pending.values()
            wanted = Stage.EXECUTING_QPU if running else Stage.WAITING_FOR_QPU
        if wanted is self._stage:
            return False
        self.book_until(reading)
        self._stage = wanted
        self._of(wanted)
        return True

    def _of(self, stage: Stage) -> _Totals:
        return self._totals.setdefault(stage, _Totals())
