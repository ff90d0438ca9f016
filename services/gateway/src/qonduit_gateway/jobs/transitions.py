"""How a job moves: one table, and the pure functions that apply it.

A function here takes a job's progress and something that happened, and returns a `Decision`: the
progress after it, an entry for the history, and the effects to carry out once it is committed. It
reads no clock and does no I/O. Duplicates are told apart by the database's unique key before a
decision is asked for; late events and old attempts are dealt with here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from qonduit_service_kit.messages import EventKind, JobEvent, Reason, Stage

from qonduit_gateway.jobs.model import Entry, JobState, Progress, Source, status_text

if TYPE_CHECKING:
    from collections.abc import Mapping


class Trigger(StrEnum):
    """What can happen to a job."""

    PLACED = "placed"
    STARTED = "started"
    STAGE_SET = "stage set"
    FINISHED = "finished"
    FAILED = "failed"
    STOPPED = "stopped"
    CANCEL = "cancel"
    LOST = "attempt lost, tries left"
    LOST_FOR_GOOD = "attempt lost, no tries left"
    REFUSED = "placement refused"


_ENDS = {
    Trigger.FINISHED: JobState.DONE,
    Trigger.FAILED: JobState.ERROR,
    Trigger.STOPPED: JobState.CANCELED,
}
_MOVES = {Trigger.STARTED: JobState.RUNNING, Trigger.STAGE_SET: JobState.RUNNING, **_ENDS}
_LOSSES = {Trigger.LOST: JobState.QUEUED, Trigger.LOST_FOR_GOOD: JobState.ERROR}

TABLE: Mapping[JobState, Mapping[Trigger, JobState]] = {
    JobState.QUEUED: {
        Trigger.PLACED: JobState.INITIALIZING,
        **_MOVES,
        **_LOSSES,
        Trigger.CANCEL: JobState.CANCELED,
        Trigger.REFUSED: JobState.ERROR,
    },
    JobState.INITIALIZING: {**_MOVES, **_LOSSES, Trigger.CANCEL: JobState.CANCELING},
    JobState.RUNNING: {**_MOVES, **_LOSSES, Trigger.CANCEL: JobState.CANCELING},
    JobState.CANCELING: {
        **_ENDS,
        Trigger.LOST: JobState.CANCELED,
        Trigger.LOST_FOR_GOOD: JobState.CANCELED,
    },
    JobState.DONE: {},
    JobState.ERROR: {},
    JobState.CANCELED: {},
}
"""The state that follows; what is not listed changes nothing."""


class Verdict(StrEnum):
    """What became of something that happened."""

    APPLIED = "applied"
    LATE = "late"
    """Kept in the history at its place; newer events had already moved the job."""
    STALE = "stale"
    """From an attempt, or for a job, that is over."""
    IGNORED = "ignored"
    """Nothing to do in this state."""


@dataclass(frozen=True, slots=True)
class Announce:
    """Tell the scheduler that the present attempt wants a place."""


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Tell the scheduler to forget all attempts up to this one."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Tell a worker to end an attempt: for its user (CANCELED), or because it is fenced off (WORKER_LOST)."""

    worker_id: str
    attempt: int
    cause: Reason


@dataclass(frozen=True, slots=True)
class CloseLog:
    """Tell storage that the job's log is complete."""


@dataclass(frozen=True, slots=True)
class EndQpuWork:
    """Tell the QPU broker that nobody wants what the job left on QPUs: its sessions close, its QPU jobs are cancelled.

    Its worker may have died before it could say so.
    """

    attempt: int


Effect = Announce | Withdraw | Stop | CloseLog | EndQpuWork


@dataclass(frozen=True, slots=True)
class Decision:
    """What to commit, and what to do after."""

    verdict: Verdict
    after: Progress
    entry: Entry | None = None
    effects: tuple[Effect, ...] = ()


def on_event(before: Progress, event: JobEvent, *, max_attempts: int) -> Decision:
    """Decide about a worker's event that the history has not seen yet."""
    if event.attempt != before.attempt:
        return _stale(before, event)
    if event.sequence < before.last_sequence and event.kind is not EventKind.FINISHED:
        return _late(before, event)
    if before.state.terminal:
        return _stale(before, event)
    if event.kind is EventKind.USAGE:
        return Decision(Verdict.APPLIED, before)
    if event.kind is EventKind.FINISHED and event.reason is Reason.WORKER_LOST:
        return on_lost(before, event.attempt, event.text, worker_id="", at=event.at, max_attempts=max_attempts)
    return _apply_event(before, event)


def on_cancel(before: Progress, *, at: float) -> Decision:
    """Decide about a user's wish to end the job."""
    target = TABLE[before.state].get(Trigger.CANCEL)
    if target is None:
        return Decision(Verdict.IGNORED, before)
    after = replace(before, state=target, revision=before.revision + 1, cancel_requested_at=at)
    if target is JobState.CANCELED:
        after = _ended(after, Reason.CANCELED, at)
        return Decision(Verdict.APPLIED, after, _own_entry(after, at), _farewell(after))
    stop = Stop(before.worker_id, before.attempt, Reason.CANCELED)
    return Decision(Verdict.APPLIED, after, _own_entry(after, at), (stop,))


def on_lost(before: Progress, attempt: int, text: str, *, worker_id: str, at: float, max_attempts: int) -> Decision:
    """Decide about an attempt whose worker or lease is gone. Old attempts were dealt with before."""
    if attempt != before.attempt or before.state.terminal:
        return Decision(Verdict.STALE, before)
    trigger = Trigger.LOST if attempt < max_attempts else Trigger.LOST_FOR_GOOD
    target = TABLE[before.state][trigger]
    # The worker may be alive behind a broken network: it is told to end what is no longer valid.
    lost_on = worker_id or before.worker_id
    stops = (Stop(lost_on, attempt, Reason.WORKER_LOST),) if lost_on else ()
    if target is JobState.QUEUED:
        after = _requeued(before, at)
        entry = _own_entry(after, at, f"attempt {attempt} was lost: {text}")
        return Decision(Verdict.APPLIED, after, entry, (*stops, Announce()))
    after = replace(before, state=target, revision=before.revision + 1)
    if target is JobState.CANCELED:
        after = _ended(after, Reason.CANCELED, at)
    else:
        message = f"The worker was lost {attempt} times, which is as often as a job is tried. The last time: {text}"
        after = replace(_ended(after, Reason.WORKER_LOST, at), error_text=message)
    return Decision(Verdict.APPLIED, after, _own_entry(after, at, text), (*stops, *_farewell(after)))


def on_refused(before: Progress, attempt: int, text: str, *, at: float) -> Decision:
    """Decide about the scheduler's word that no worker could ever hold the job."""
    target = TABLE[before.state].get(Trigger.REFUSED)
    if attempt != before.attempt or target is None:
        return Decision(Verdict.STALE, before)
    after = replace(before, state=target, revision=before.revision + 1, error_text=text)
    after = _ended(after, Reason.UNSCHEDULABLE, at)
    return Decision(Verdict.APPLIED, after, _own_entry(after, at, text), _farewell(after))


def trigger_of(before: Progress, event: JobEvent) -> Trigger:
    """Name what an event other than USAGE does to a job in this state."""
    if event.kind is EventKind.FINISHED:
        return _end_trigger(before, event.reason)
    by_kind = {
        EventKind.INITIALIZING: Trigger.PLACED,
        EventKind.RUNNING: Trigger.STARTED,
        EventKind.STAGE: Trigger.STAGE_SET,
    }
    return by_kind[event.kind]


def _end_trigger(before: Progress, reason: Reason) -> Trigger:
    if reason is Reason.NONE:
        return Trigger.FINISHED
    stopped = reason is Reason.CANCELED or (reason is Reason.KILLED and before.state is JobState.CANCELING)
    return Trigger.STOPPED if stopped else Trigger.FAILED


def _apply_event(before: Progress, event: JobEvent) -> Decision:
    trigger = trigger_of(before, event)
    target = TABLE[before.state].get(trigger, before.state)
    after = replace(
        before,
        state=target,
        revision=before.revision + 1,
        last_sequence=max(event.sequence, before.last_sequence),
        worker_id=event.worker_id or before.worker_id,
    )
    if trigger in {Trigger.STARTED, Trigger.STAGE_SET}:
        started_at = event.at if before.started_at is None else before.started_at
        after = replace(after, stage=event.stage, started_at=started_at)
    if not target.terminal:
        return Decision(Verdict.APPLIED, after, _event_entry(after, event))
    after = _with_outcome(after, event)
    return Decision(Verdict.APPLIED, after, _event_entry(after, event), _farewell(after))


def _with_outcome(after: Progress, event: JobEvent) -> Progress:
    reason = Reason.CANCELED if after.state is JobState.CANCELED else event.reason
    after = replace(
        _ended(after, reason, event.at),
        exit_code=event.exit_code,
        signal=event.signal,
        error_text="" if after.state is JobState.DONE else event.text,
    )
    if after.state is not JobState.DONE:
        return after
    return replace(after, result_digest=event.result_digest, result_bytes=event.result_bytes)


def _late(before: Progress, event: JobEvent) -> Decision:
    if event.kind is EventKind.USAGE:
        return Decision(Verdict.LATE, before)
    after = replace(before, revision=before.revision + 1)
    if event.kind is EventKind.RUNNING:
        started_at = event.at if before.started_at is None else min(event.at, before.started_at)
        after = replace(after, started_at=started_at)
    state = JobState.INITIALIZING if event.kind is EventKind.INITIALIZING else JobState.RUNNING
    return Decision(Verdict.LATE, after, _event_entry(replace(after, state=state, stage=event.stage), event))


def _stale(before: Progress, event: JobEvent) -> Decision:
    # An attempt from the future can't be: only this service raises attempts. A restored backup can make one.
    over = event.kind is EventKind.FINISHED or not event.worker_id
    stops = () if over else (Stop(event.worker_id, event.attempt, Reason.WORKER_LOST),)
    return Decision(Verdict.STALE, before, effects=stops)


def _requeued(before: Progress, at: float) -> Progress:
    return replace(
        before,
        state=JobState.QUEUED,
        stage=Stage.NONE,
        attempt=before.attempt + 1,
        revision=before.revision + 1,
        last_sequence=-1,
        worker_id="",
        queued_at=at,
        started_at=None,
    )


def _ended(progress: Progress, reason: Reason, at: float) -> Progress:
    return replace(progress, reason=reason, ended_at=at, stage=Stage.NONE)


def _farewell(after: Progress) -> tuple[Effect, ...]:
    return (Withdraw(after.attempt), CloseLog(), EndQpuWork(after.attempt))


def _own_entry(after: Progress, at: float, text: str = "") -> Entry:
    status = status_text(after.state, after.stage)
    return Entry(after.attempt, Source.GATEWAY, after.revision, after.last_sequence, at, status, text)


def _event_entry(after: Progress, event: JobEvent) -> Entry:
    text = event.text.splitlines()[-1] if event.text else ""
    if event.kind is EventKind.INITIALIZING:
        text = f"on worker {event.worker_id}"
    if after.state is JobState.CANCELING and event.error is None:
        text = f"the program went on to {status_text(JobState.RUNNING, event.stage)}"
    status = status_text(after.state, after.stage)
    return Entry(event.attempt, Source.WORKER, event.sequence, event.sequence, event.at, status, text, event.error)
