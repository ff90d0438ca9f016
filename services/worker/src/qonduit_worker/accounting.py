"""What a driver uses, told to the gateway with each change of its stage."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from qonduit_service_kit import tracing
from qonduit_service_kit.messages import EventKind, QpuState, Stage

from qonduit_worker import metrics
from qonduit_worker.stages import Reading, StageClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from qonduit_service_kit.messages import QpuTransition, StageUsage, ToldError

    from qonduit_worker.events import EventOutbox
    from qonduit_worker.sandbox import Usage

_REASON_LENGTH = 300


class Accounts:
    """The books of one attempt: reads the kernel's counters and writes events and metrics."""

    def __init__(self, events: EventOutbox) -> None:
        self._events = events
        self._measure: Callable[[], Usage] | None = None
        self._clock: StageClock | None = None
        self._place = tracing.current()
        self._since = 0.0

    def start(self, measure: Callable[[], Usage]) -> None:
        """Begin, with the driver's process; `measure` reads what it has used."""
        self._measure = measure
        self._clock = StageClock(Reading(time.monotonic(), 0.0, 0, 0))
        self._since = time.time()

    @property
    def stage(self) -> Stage:
        """The present stage; NONE before the program began."""
        return self._clock.stage if self._clock is not None else Stage.NONE

    def usage(self) -> tuple[StageUsage, ...]:
        """Absolute totals so far."""
        return self._clock.usage() if self._clock is not None else ()

    def program_says(self, stage: Stage) -> None:
        """Take the program's own stage."""
        before = self.stage
        if self._clock is not None and self._clock.program_says(stage, self._book(self._clock)):
            self._over(before)
            self._events.emit(EventKind.STAGE, stage=self._clock.stage, usage=self._clock.usage())

    def qpu_says(self, transition: QpuTransition) -> None:
        """Take a step of a QPU job: each is in the job's history, also where another one's keeps the stage as it is."""
        before = self.stage
        if self._clock is not None and self._clock.qpu_says(transition, self._book(self._clock)):
            if before is not self.stage:
                self._over(before)
            text = wording(transition)
            self._events.emit(EventKind.STAGE, stage=self._clock.stage, text=text, usage=self._clock.usage())

    def program_told(self, error: ToldError) -> None:
        """Take an error that the program tells its users, in the present stage."""
        if self._clock is not None:
            self._book(self._clock)
            text = f"[{error.code}] {error.message}".splitlines()[0][:_REASON_LENGTH]
            self._events.emit(
                EventKind.STAGE, stage=self._clock.stage, text=text, usage=self._clock.usage(), error=error
            )

    def book_task(self, stage: Stage, cpu_s: float, peak_mem_bytes: int) -> None:
        """Book a task to the stage it was submitted in."""
        if self._clock is not None:
            self._clock.book_task(stage, cpu_s, peak_mem_bytes)
            metrics.STAGE_CPU.labels(stage.value).inc(cpu_s)

    def report(self) -> None:
        """Tell the gateway the totals so far."""
        if self._clock is not None:
            self._book(self._clock)
            self._events.emit(EventKind.USAGE, stage=self._clock.stage, usage=self._clock.usage())

    def finish(self) -> None:
        """Book what was used until the end."""
        if self._clock is not None:
            self._book(self._clock)
            self._over(self.stage)

    def _over(self, stage: Stage) -> None:
        """Tell a stage that is over as a span."""
        began, self._since = self._since, time.time()
        tracing.tell(f"stage {stage.value}", began, self._since, parent=self._place)

    def _book(self, clock: StageClock) -> Reading:
        """Book to the present stage what was used until now; returns the reading of now."""
        if self._measure is None:
            raise RuntimeError("the accounts were not started")
        used = self._measure()
        reading = Reading(time.monotonic(), used.cpu_seconds, used.mem_bytes, used.peak_mem_bytes)
        metrics.STAGE_CPU.labels(clock.stage.value).inc(clock.book_until(reading))
        return reading


def wording(transition: QpuTransition) -> str:
    """Return a step of a QPU job in words."""
    job = f"QPU job {transition.qpu_job_id}"
    if transition.state is QpuState.RUNNING:
        return f"{job} runs on {transition.backend}"
    if transition.state is not QpuState.QUEUED:
        ended = "failed" if transition.state is QpuState.FAILED else f"is {transition.state.value.lower()}"
        reason = f": {transition.text[:_REASON_LENGTH]}" if transition.text else ""
        return f"{job} on {transition.backend} {ended}{reason}"
    ahead = "" if transition.ahead is None else f", {transition.ahead} ahead"
    wait = f", for about {transition.wait_s:.0f} s" if transition.wait_s else ""
    return f"{job} waits for {transition.backend}{ahead}{wait}"
