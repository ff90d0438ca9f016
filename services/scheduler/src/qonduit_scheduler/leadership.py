"""Who leads: how a scheduler learns that it is the active one, asks for a term, and notices that it lost it.

RabbitMQ gives the inbox's messages to one consumer at a time, so whoever gets any message is active.
Each scheduler therefore sends itself a probe every second through that inbox: the active one gets them
(also those of the standbys, which it ignores), and a standby gets the first one after it took over. The
active one that gets nothing for `silence_s` is cut off or replaced, and stops deciding.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from qonduit_service_kit.messages import GATEWAY, SCHEDULER, JobsSnapshot, SchedulerHello, SchedulerProbe

from qonduit_scheduler.core import Core, Event, Snapshot, Tick
from qonduit_scheduler.picture import Send

if TYPE_CHECKING:
    from qonduit_scheduler.policy import PolicySettings

EARLY_LIMIT: Final = 200_000
"""Messages kept while the snapshot is on its way; beyond, the oldest go: all are rebuilt by asking."""
_LONGEST_PATIENCE_S: Final = 60.0


class Role(Enum):
    """What this scheduler is at the moment."""

    STANDBY = auto()
    ASKING = auto()
    """Active, and waiting for the gateway's snapshot."""
    LEADING = auto()


@dataclass(frozen=True, slots=True)
class LeadershipSettings:
    """Times, in seconds."""

    probe_s: float = 1.0
    hello_s: float = 2.0
    """Time until an unanswered hello is repeated; doubled each time, up to a minute, as hellos wait in a queue."""
    silence_s: float = 5.0
    """Without any message for this long a scheduler takes itself for a standby."""


@dataclass(slots=True)
class _Pages:
    pages: dict[int, JobsSnapshot] = field(default_factory=dict)
    last: int | None = None

    def add(self, page: JobsSnapshot) -> Snapshot | None:
        """Add a page, in any order and more than once; return the snapshot once all are there."""
        self.pages[page.page] = page
        if page.last:
            self.last = page.page
        if self.last is None or any(number not in self.pages for number in range(self.last + 1)):
            return None
        pages = [self.pages[number] for number in range(self.last + 1)]
        return Snapshot(
            page.term,
            tuple(spec for each in pages for spec in each.queued),
            tuple(running for each in pages for running in each.running),
        )


class Leadership:
    """One scheduler process through standby, takeover and leading. Pure, as the core is."""

    def __init__(self, instance: str, settings: LeadershipSettings, policy: PolicySettings) -> None:
        self.role = Role.STANDBY
        self.core: Core | None = None
        self.takeovers = 0
        self._instance = instance
        self._settings = settings
        self._policy = policy
        self._heard_at = float("-inf")
        self._probed_at = float("-inf")
        self._asked_at = float("-inf")
        self._patience_s = settings.hello_s
        self._probes_sent = 0
        self._probes_seen = 0
        self._rounds = 0
        self._pages: dict[int, _Pages] = {}
        self._early: list[Event] = []

    @property
    def scheduler_id(self) -> str:
        """Name in this round of asking: an answer to an earlier round is known as late."""
        return f"{self._instance}.{self._rounds}"

    @property
    def term(self) -> int:
        """The term of leadership, 0 while not leading."""
        return self.core.picture.term if self.core is not None else 0

    def received(self, message: object, now: float) -> list[Send]:
        """Take a message of the inbox: that it came at all says that this scheduler is active."""
        silent = now - self._heard_at > self._settings.silence_s
        self._heard_at = now
        commands = self._ask(now) if self.role is Role.STANDBY or silent else []
        if isinstance(message, SchedulerProbe):
            return commands + self._probe_seen(message, now)
        if isinstance(message, JobsSnapshot):
            return commands + self._page(message, now)
        if self.core is not None:
            return commands + self.core.handle(message, now)  # type: ignore[arg-type]
        self._early.append(message)  # type: ignore[arg-type]
        del self._early[:-EARLY_LIMIT]
        return commands

    def handled(self, now: float) -> None:
        """Note that the last message's handling is over: the time it took was no silence."""
        self._heard_at = now

    def step_down(self) -> None:
        """Give up what is known; the next message begins a takeover."""
        self.role, self.core = Role.STANDBY, None
        self._early.clear()

    def tick(self, now: float, *, connected: bool) -> list[Send]:
        """Let time pass. Without a connection nothing is decided: others may lead, or messages be lost."""
        if self.role is not Role.STANDBY and (not connected or now - self._heard_at > self._settings.silence_s):
            self.step_down()
        if not connected:
            return []
        commands: list[Send] = []
        if now - self._probed_at >= self._settings.probe_s:
            self._probed_at = now
            self._probes_sent += 1
            commands.append(Send(SCHEDULER, SchedulerProbe(self._instance, self._probes_sent)))
        if self.role is Role.ASKING and now - self._asked_at >= self._patience_s:
            self._patience_s = min(2 * self._patience_s, _LONGEST_PATIENCE_S)
            commands += self._hello(now)
        if self.core is not None:
            commands += self.core.handle(Tick(), now)
        return commands

    def undeliverable(self, event: Event, now: float) -> list[Send]:
        """Tell the core of a command that has no receiver."""
        return self.core.handle(event, now) if self.core is not None else []

    def _probe_seen(self, probe: SchedulerProbe, now: float) -> list[Send]:
        """Note a probe; one of ours missing in between means that somebody else read our inbox, or it lost some."""
        if probe.scheduler_id != self._instance or probe.sequence <= self._probes_seen:
            return []
        missed = self._probes_seen and probe.sequence != self._probes_seen + 1
        self._probes_seen = probe.sequence
        return self._ask(now) if missed and self.role is Role.LEADING else []

    def _ask(self, now: float) -> list[Send]:
        """Begin a takeover."""
        self.step_down()
        self.role = Role.ASKING
        self._rounds += 1
        self._pages.clear()
        self._patience_s = self._settings.hello_s
        return self._hello(now)

    def _hello(self, now: float) -> list[Send]:
        self._asked_at = now
        return [Send(GATEWAY, SchedulerHello(self.scheduler_id))]

    def _page(self, page: JobsSnapshot, now: float) -> list[Send]:
        if page.scheduler_id != self.scheduler_id:
            # An answer to a standby's earlier life is no matter; a higher term than ours is another leader's.
            overruled = self.role is Role.LEADING and page.term > self.term
            return self._ask(now) if overruled else []
        if self.role is not Role.ASKING:
            return []
        self._asked_at = now
        # A repeated hello may be answered twice, with a term each: pages of the two don't mix.
        snapshot = self._pages.setdefault(page.term, _Pages()).add(page)
        if snapshot is None:
            return []
        self.role, self.takeovers = Role.LEADING, self.takeovers + 1
        self.core = Core(self._policy, snapshot, now)
        self._pages.clear()
        early, self._early = self._early, []
        return self.core.begin(early, now)
