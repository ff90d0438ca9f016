"""The state machine under everything that a network can do to messages."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from qonduit_gateway.jobs.model import JobState, Progress, status_text
from qonduit_gateway.jobs.transitions import (
    TABLE,
    Announce,
    CloseLog,
    Decision,
    EndQpuWork,
    Stop,
    Verdict,
    Withdraw,
    on_cancel,
    on_event,
    on_lost,
    on_refused,
)
from qonduit_service_kit.messages import EventKind, JobEvent, Reason, Stage

if TYPE_CHECKING:
    from qonduit_gateway.jobs.transitions import Effect

MAX_ATTEMPTS = 3
KINDS = st.sampled_from(list(EventKind))
STAGES = st.sampled_from(list(Stage))
REASONS = st.sampled_from(list(Reason))


def event(kind: EventKind, sequence: int, attempt: int = 1, **more: object) -> JobEvent:
    values: dict[str, object] = {"at": float(sequence), "worker_id": f"w{attempt}", **more}
    return JobEvent("job", attempt, sequence, kind=kind, **values)  # type: ignore[arg-type]


class Job(RuleBasedStateMachine):
    """Events of all attempts in any order and number, mixed with cancels, losses and refusals."""

    def __init__(self) -> None:
        super().__init__()
        self.progress = Progress()
        self.seen: set[tuple[int, int]] = set()
        self.past: list[JobEvent] = []
        self.ends = 0
        self.announced = [1]
        self.stopped: set[int] = set()
        self.effects: list[Effect] = []

    def take(self, decision: Decision) -> None:
        before, after = self.progress, decision.after
        # A job that is over may still learn when it began, from an event that was overtaken.
        learned = replace(before, revision=after.revision, started_at=after.started_at)
        assert not before.state.terminal or after == learned
        assert after.attempt in {before.attempt, before.attempt + 1}
        assert (after.revision > before.revision) == (after != before)
        if after.state is not before.state:
            assert after.state in TABLE[before.state].values()
        if after.state.terminal and not before.state.terminal:
            self.ends += 1
            assert Withdraw(after.attempt) in decision.effects
            assert {CloseLog(), EndQpuWork(decision.after.attempt)} <= set(decision.effects)
        for effect in decision.effects:
            if isinstance(effect, Announce):
                self.announced.append(after.attempt)
            if isinstance(effect, Stop):
                self.stopped.add(effect.attempt)
        self.progress = after

    def hear(self, heard: JobEvent) -> None:
        if (heard.attempt, heard.sequence) in self.seen:
            return  # The database's unique key drops it before a decision is asked for.
        decision = on_event(self.progress, heard, max_attempts=MAX_ATTEMPTS)
        if decision.entry is not None and heard.kind is not EventKind.USAGE:
            self.seen.add((heard.attempt, heard.sequence))
        if decision.verdict is Verdict.LATE:
            assert decision.after.state is self.progress.state
            assert decision.after.stage is self.progress.stage
        self.take(decision)

    @rule(
        kind=KINDS, stage=STAGES, reason=REASONS, attempt=st.integers(1, MAX_ATTEMPTS + 1), sequence=st.integers(0, 6)
    )
    def new_event(self, kind: EventKind, stage: Stage, reason: Reason, attempt: int, sequence: int) -> None:
        heard = event(kind, sequence, attempt, stage=stage, reason=reason)
        self.past.append(heard)
        self.hear(heard)

    @rule(choice=st.integers(0, 100))
    def repeated_event(self, choice: int) -> None:
        if self.past:
            self.hear(self.past[choice % len(self.past)])

    @rule()
    def cancel(self) -> None:
        before = self.progress
        self.take(on_cancel(before, at=1.0))
        if not before.state.terminal:
            assert self.progress.state in {JobState.CANCELED, JobState.CANCELING}

    @rule(attempt=st.integers(1, MAX_ATTEMPTS + 1))
    def lost(self, attempt: int) -> None:
        self.take(on_lost(self.progress, attempt, "gone", worker_id="", at=1.0, max_attempts=MAX_ATTEMPTS))

    @rule(attempt=st.integers(1, MAX_ATTEMPTS + 1))
    def refused(self, attempt: int) -> None:
        self.take(on_refused(self.progress, attempt, "too big", at=1.0))

    @invariant()
    def ends_at_most_once(self) -> None:
        assert self.ends == int(self.progress.state.terminal)

    @invariant()
    def one_attempt_at_a_time(self) -> None:
        assert self.announced == list(range(1, self.progress.attempt + 1))
        assert self.progress.attempt <= MAX_ATTEMPTS

    @invariant()
    def a_reason_belongs_to_a_bad_end(self) -> None:
        bad = self.progress.state in {JobState.ERROR, JobState.CANCELED}
        assert (self.progress.reason is not Reason.NONE) == bad


TestJob = Job.TestCase
TestJob.settings = settings(max_examples=200, stateful_step_count=30)


def after(*events: JobEvent, progress: Progress | None = None) -> Progress:
    now = progress or Progress()
    for each in events:
        now = on_event(now, each, max_attempts=MAX_ATTEMPTS).after
    return now


RUNNING = after(event(EventKind.INITIALIZING, 0), event(EventKind.RUNNING, 1))


def test_the_status_is_as_users_know_it() -> None:
    now = after(event(EventKind.STAGE, 2, stage=Stage.OPTIMIZING_FOR_HARDWARE), progress=RUNNING)
    assert status_text(now.state, now.stage) == "RUNNING: OPTIMIZING_FOR_HARDWARE"
    back = after(event(EventKind.STAGE, 3), progress=now)
    assert status_text(back.state, back.stage) == "RUNNING"


def test_an_overtaken_event_keeps_its_place_in_the_history_and_moves_nothing() -> None:
    now = after(event(EventKind.STAGE, 2, stage=Stage.MAPPING))
    late = on_event(now, event(EventKind.RUNNING, 1), max_attempts=MAX_ATTEMPTS)

    assert late.verdict is Verdict.LATE
    assert (late.after.state, late.after.stage) == (JobState.RUNNING, Stage.MAPPING)
    assert late.entry is not None
    assert (late.entry.status, late.entry.after_sequence) == ("RUNNING", 1)
    assert late.after.started_at == 1.0


def test_a_program_that_ends_well_before_it_is_stopped_is_done() -> None:
    canceling = on_cancel(RUNNING, at=5.0).after
    assert after(event(EventKind.FINISHED, 2), progress=canceling).state is JobState.DONE


@pytest.mark.parametrize("reason", [Reason.CANCELED, Reason.KILLED])
def test_a_program_that_was_stopped_is_canceled(reason: Reason) -> None:
    canceling = on_cancel(RUNNING, at=5.0).after
    ended = after(event(EventKind.FINISHED, 2, reason=reason), progress=canceling)
    assert (ended.state, ended.reason) == (JobState.CANCELED, Reason.CANCELED)


def test_a_killed_program_that_nobody_canceled_is_an_error() -> None:
    ended = after(event(EventKind.FINISHED, 2, reason=Reason.KILLED, signal=9, text="killed"), progress=RUNNING)
    assert (ended.state, ended.reason, ended.signal) == (JobState.ERROR, Reason.KILLED, 9)
    assert ended.error_text == "killed"


def test_a_canceled_job_whose_worker_is_lost_is_canceled() -> None:
    canceling = on_cancel(RUNNING, at=5.0).after
    decision = on_lost(canceling, 1, "gone", worker_id="w1", at=6.0, max_attempts=MAX_ATTEMPTS)
    assert decision.after.state is JobState.CANCELED
    assert Announce() not in decision.effects


def test_a_driver_that_a_worker_gave_up_is_tried_elsewhere() -> None:
    given_up = event(EventKind.FINISHED, 2, reason=Reason.WORKER_LOST, text="the worker shuts down")
    decision = on_event(RUNNING, given_up, max_attempts=MAX_ATTEMPTS)
    assert (decision.after.state, decision.after.attempt) == (JobState.QUEUED, 2)
    assert Announce() in decision.effects


def test_the_last_loss_is_an_error_that_counts() -> None:
    now = Progress()
    for attempt in range(1, MAX_ATTEMPTS + 1):
        now = on_lost(now, attempt, "no heartbeat", worker_id="w", at=1.0, max_attempts=MAX_ATTEMPTS).after
    assert (now.state, now.reason) == (JobState.ERROR, Reason.WORKER_LOST)
    assert "3 times" in now.error_text


def test_an_old_attempt_is_told_to_stop_unless_it_is_over() -> None:
    second = on_lost(RUNNING, 1, "gone", worker_id="w1", at=1.0, max_attempts=MAX_ATTEMPTS).after
    stale = on_event(second, event(EventKind.STAGE, 2), max_attempts=MAX_ATTEMPTS)
    assert stale.effects == (Stop("w1", 1, Reason.WORKER_LOST),)
    over = on_event(second, event(EventKind.FINISHED, 3), max_attempts=MAX_ATTEMPTS)
    assert (over.verdict, over.effects, over.after) == (Verdict.STALE, (), second)
