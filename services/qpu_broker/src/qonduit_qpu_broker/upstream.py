"""The seam between the broker and where QPU jobs run: local devices, or a provider's service."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from qonduit_service_kit.messages import QpuState


@dataclass(frozen=True, slots=True)
class Device:
    """A device as lists show it."""

    name: str
    qubits: int
    family: str
    revision: str
    version: str
    basis_gates: tuple[str, ...]
    online: bool = True
    simulated: bool = True


@dataclass(frozen=True, slots=True)
class Submission:
    """A job for an upstream; the body is what the program posted, opaque to the broker."""

    qpu_job_id: str
    program: str
    backend: str
    body: bytes
    api_version: str
    adopt: bool
    """Whether an earlier submission of it may exist upstream, from before a crash."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a submission ended, with the seconds charged for it."""

    state: QpuState
    charged_s: float
    result: bytes = b""
    reason: str = ""
    code: int = 0


@dataclass(frozen=True, slots=True)
class Condition:
    """How one instance (or the local devices) is doing, for people."""

    name: str
    """"local", or the account's name."""
    instance: str
    """Its CRN, or nothing."""
    state: str
    """"ok", "limited" (by the submission limit or Retry-After), "failing" (circuit open), "refused" (credentials
    not accepted)."""
    text: str
    """A sentence: why, and what to do."""
    until: float | None
    """When it is tried again, seconds since the epoch."""
    in_flight: int
    """Submissions upstream that have not ended."""


class Upstream(Protocol):
    """Runs submissions on its devices. Also a service part: start and stop."""

    slots: int
    """How many submissions it wants at a time."""
    programs: frozenset[str]
    """The program ids it runs."""

    async def start(self) -> None:
        """Return once submissions can be taken."""

    async def stop(self) -> None:
        """End; what runs is submitted again, with `adopt`, after the next start."""

    def devices(self) -> Sequence[Device]:
        """Return its devices, the ones to prefer first."""

    def conditions(self) -> Sequence[Condition]:
        """Return how its instances are doing."""

    def expect(self) -> None:
        """Take note that a program looks at devices: submissions may follow."""

    def configuration(self, backend: str) -> bytes:
        """Return a device's configuration, JSON in the runtime API's shape; KeyError if it has no such device."""

    def properties(self, backend: str) -> bytes:
        """Return a device's properties, JSON; '{}' if there are none; KeyError if it has no such device."""

    async def run(self, submission: Submission, started: Callable[[], Awaitable[None]]) -> Outcome:
        """Run to the end; calls `started` when the device begins. Failures are outcomes, not exceptions."""

    async def cancel(self, qpu_job_id: str) -> None:
        """Have a submission's `run` end as cancelled soon; nothing happens if it isn't running."""
