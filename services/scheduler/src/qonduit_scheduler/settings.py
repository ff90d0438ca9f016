"""Settings of the scheduler, read once from QONDUIT_SCHEDULER_*."""

from __future__ import annotations

from pydantic import Field
from qonduit_service_kit.settings import ServiceSettings

from qonduit_scheduler.leadership import LeadershipSettings
from qonduit_scheduler.policy import PolicySettings


class SchedulerSettings(ServiceSettings, env_prefix="QONDUIT_SCHEDULER_"):
    """What may be set; times are seconds."""

    lease_ttl_s: float = Field(30.0, gt=0, description="A worker silent for this long has ended its leases by itself.")
    grace_s: float = Field(15.0, ge=0, description="Added to lease_ttl_s before a silent worker is given up.")
    grant_timeout_s: float = Field(10.0, gt=0, description="A grant unseen in heartbeats for this long is lost.")
    settle_s: float = Field(2.0, ge=0, description="After a takeover: time for workers to tell what they run.")
    idle_s: float = Field(2.0, ge=0, description="A spare executor is taken back after idling this long.")
    yield_after_s: float = Field(5.0, ge=0, description="Waiting this long makes users who hold more yield executors.")
    claim_after_s: float = Field(
        120.0, ge=0, description="Waiting this long makes others give executors back, whoever holds more."
    )
    stretch: float = Field(11.0, gt=0, description="What waits is due after this many times its predicted run time.")
    patience_s: float = Field(750.0, gt=0, description="But no later than this: lower it for shorter longest waits.")
    unfairness_s: float = Field(
        40_000.0, ge=0, description="How much a user's next is delayed by holding far more than the fair share."
    )
    departed_s: float = Field(60.0, ge=0, description="A worker that left counts this long as one that could return.")
    task_room_bytes: int = Field(
        1024**3, ge=0, description="Memory that jobs leave for tasks on a worker: as much as most tasks ask for."
    )
    probe_s: float = Field(1.0, gt=0, description="Time between probes of the own inbox.")
    silence_s: float = Field(5.0, gt=0, description="An inbox silent for this long means that another one leads.")
    tick_s: float = Field(0.25, gt=0, description="Time between looks at what is due.")

    def policy(self) -> PolicySettings:
        """Return the core's part."""
        return PolicySettings(
            lease_ttl_s=self.lease_ttl_s,
            grace_s=self.grace_s,
            grant_timeout_s=self.grant_timeout_s,
            settle_s=self.settle_s,
            idle_s=self.idle_s,
            yield_after_s=self.yield_after_s,
            claim_after_s=self.claim_after_s,
            stretch=self.stretch,
            patience_s=self.patience_s,
            unfairness_s=self.unfairness_s,
            departed_s=self.departed_s,
            task_room_bytes=self.task_room_bytes,
        )

    def leadership(self) -> LeadershipSettings:
        """Return the part about who leads."""
        return LeadershipSettings(probe_s=self.probe_s, hello_s=2 * self.probe_s, silence_s=self.silence_s)
