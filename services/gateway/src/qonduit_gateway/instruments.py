"""Every metric of the gateway, each defined once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge, Histogram
from qonduit_service_kit.messages import Stage
from qonduit_service_kit.metrics import REGISTRY

from qonduit_gateway.jobs.model import JobState
from qonduit_gateway.jobs.transitions import Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prometheus_client import CollectorRegistry

    from qonduit_gateway.database.outbox_rows import Backlog
    from qonduit_gateway.ledger import Change

_WAIT_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200, 86_400)


class Instruments:
    """Counts what happens to jobs. A job's stage seconds are counted once, when it ends; a QPU charge when it comes."""

    def __init__(self, registry: CollectorRegistry = REGISTRY, *, by_user: bool = False) -> None:
        self._users = _UserInstruments(registry) if by_user else None
        self._jobs = Gauge("qonduit_jobs", "Jobs in each state.", ["state"], registry=registry)
        self._submitted = Counter("qonduit_jobs_submitted_total", "Jobs accepted.", registry=registry)
        self._finished = Counter(
            "qonduit_jobs_finished_total",
            "Jobs that ended, by state and reason.",
            ["state", "reason"],
            registry=registry,
        )
        self._requeued = Counter("qonduit_jobs_requeued_total", "Attempts lost and tried again.", registry=registry)
        self._queue_wait = Histogram(
            "qonduit_job_queue_wait_seconds",
            "From the last queueing of a job to its worker.",
            buckets=_WAIT_BUCKETS,
            registry=registry,
        )
        self._start_latency = Histogram(
            "qonduit_job_start_latency_seconds",
            "From the submission of a job to the start of its program.",
            buckets=_WAIT_BUCKETS,
            registry=registry,
        )
        self._stale = Counter(
            "qonduit_job_events_stale_total", "Events of attempts or jobs that were over: refused.", registry=registry
        )
        self._late = Counter(
            "qonduit_job_events_late_total", "Events that newer ones had overtaken.", registry=registry
        )
        self._outbox_rows = Gauge("qonduit_outbox_rows", "Messages that wait to be sent.", registry=registry)
        self._outbox_age = Gauge(
            "qonduit_outbox_oldest_age_seconds", "Age of the oldest message that waits to be sent.", registry=registry
        )
        self._dead_letters = Counter(
            "qonduit_dead_letters_total", "Dead letters taken in.", ["queue"], registry=registry
        )
        self._cpu = Counter(
            "qonduit_job_stage_cpu_seconds_total", "CPU seconds of ended jobs.", ["stage"], registry=registry
        )
        self._wall = Counter(
            "qonduit_job_stage_wall_seconds_total", "Wall seconds of ended jobs.", ["stage"], registry=registry
        )
        self._qpu = Counter(
            "qonduit_job_stage_qpu_seconds_total",
            "QPU seconds booked since this gateway started; those of all time are the QPU broker's.",
            ["stage"],
            registry=registry,
        )

    def set_jobs(self, counts: Mapping[JobState, int]) -> None:
        """Set the number of jobs in each state."""
        for state in JobState:
            self._jobs.labels(state.value).set(counts.get(state, 0))

    def set_outbox(self, backlog: Backlog, now: float) -> None:
        """Set what waits in the outbox."""
        self._outbox_rows.set(backlog.rows)
        self._outbox_age.set(0 if backlog.oldest_at is None else max(0.0, now - backlog.oldest_at))

    def charged(self, user: str, qpu_seconds: float) -> None:
        """Count a QPU charge, which may come after the end of its job."""
        self._qpu.labels(Stage.EXECUTING_QPU.value).inc(qpu_seconds)
        if self._users is not None:
            self._users.qpu.labels(user).inc(qpu_seconds)

    def dead_letter(self, queue: str) -> None:
        """Count a dead letter."""
        self._dead_letters.labels(queue).inc()

    def observe(self, change: Change) -> None:
        """Count a change of a job."""
        if change.verdict is Verdict.STALE:
            self._stale.inc()
        elif change.verdict is Verdict.LATE:
            self._late.inc()
        after = change.job.progress
        if change.before is None:
            self._submitted.inc()
            self._jobs.labels(after.state.value).inc()
            return
        if change.before.state is not after.state:
            self._jobs.labels(change.before.state.value).dec()
            self._jobs.labels(after.state.value).inc()
        if after.attempt > change.before.attempt:
            self._requeued.inc()
        self._observe_waits(change)
        if change.ended:
            self._observe_end(change)

    def _observe_waits(self, change: Change) -> None:
        before, after = change.before, change.job.progress
        if before is None:
            return
        if after.started_at is not None and before.started_at is None:
            self._start_latency.observe(max(0.0, after.started_at - change.job.submission.created_at))
        if before.state is JobState.QUEUED and after.state in {JobState.INITIALIZING, JobState.RUNNING}:
            self._queue_wait.observe(max(0.0, change.at - after.queued_at))

    def _observe_end(self, change: Change) -> None:
        after = change.job.progress
        for usage in change.usage:
            stage = usage.stage.value  # As the workers name it.
            self._cpu.labels(stage).inc(usage.cpu_s)
            self._wall.labels(stage).inc(usage.wall_s)
        if self._users is not None:
            owner = change.job.submission.owner
            self._users.cpu.labels(owner).inc(sum(usage.cpu_s for usage in change.usage))
            self._users.finished.labels(owner, after.state.value).inc()
        # Last, so that a job that is counted as finished is counted in full.
        self._finished.labels(after.state.value, after.reason.value).inc()


class _UserInstruments:
    """What is counted a user, where the operator wants it: each user is some series more for ever."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.finished = Counter(
            "qonduit_user_jobs_finished_total",
            "A user's jobs that ended, by state.",
            ["user", "state"],
            registry=registry,
        )
        self.cpu = Counter(
            "qonduit_user_cpu_seconds_total", "CPU seconds of a user's ended jobs.", ["user"], registry=registry
        )
        self.qpu = Counter(
            "qonduit_user_qpu_seconds_total", "QPU seconds booked for a user.", ["user"], registry=registry
        )
