"""The seam between the broker and where QPU jobs run: local devices, or a provider's service."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from qonduit_service_kit.messages import QpuState


Description = Literal["configuration", "properties"]
Query = tuple[tuple[str, str], ...]


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
    mock: bool = False
    """Takes the jobs of another one, named so by the client, runs them on no QPU, and charges nothing: for dry runs."""
    waiting: int = 0
    """Jobs that wait for it elsewhere: those of other customers of a provider."""


@dataclass(frozen=True, slots=True)
class Condition:
    """How one instance (or the local devices) is doing, for people."""

    name: str
    """'local', or the account's name."""
    instance: str
    """Its CRN, or empty."""
    state: str
    """'ok', 'limited' (by the submission limit or Retry-After), 'failing' (circuit open), 'refused' (credentials)."""
    text: str
    """A sentence: why, and what to do."""
    until: float | None
    """When it is tried again, seconds since the epoch."""
    in_flight: int
    """Submissions upstream that have not ended."""


@dataclass(frozen=True, slots=True)
class SessionTerms:
    """The session or batch of a submission; its id is the broker's own."""

    session_id: str
    mode: str
    """'dedicated' or 'batch'."""
    backend: str
    ends_at: float
    """Not after this time (seconds since the epoch)."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A job for an upstream; the body is what the program posted, opaque to the broker."""

    qpu_job_id: str
    program: str
    backend: str
    body: bytes | None
    """None for one that was `held` and whose body is not there any more."""
    api_version: str
    tags: tuple[str, ...] = ()
    cost_s: int = 0
    """Most seconds that it may be charged; 0 for the provider's own limit."""
    session: SessionTerms | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a submission ended.

    Attributes:
        charged_s: The QPU seconds charged for it; None while the provider does not say, see `Upstream.charge`.
        started_at: When the device began (seconds since the epoch), if the upstream learned it only at the end.
    """

    state: QpuState
    charged_s: float | None
    result: bytes = b""
    reason: str = ""
    code: int = 0
    started_at: float | None = None


class Upstream(Protocol):
    """Runs submissions on its devices. Also a service part: start and stop."""

    programs: frozenset[str]
    """The program ids it runs."""

    async def start(self) -> None:
        """Return once submissions can be taken."""

    async def stop(self) -> None:
        """End; what is unfinished is given to `run` again after the next start."""

    def devices(self) -> Sequence[Device]:
        """Return its devices, the ones to prefer first."""

    def expect(self) -> None:
        """Take note that a program looks at devices: submissions may follow."""

    async def describe(self, kind: Description, backend: str, query: Query = ()) -> bytes:
        """Return a device's configuration or properties, JSON in the runtime API's shape; '{}' if it has none.

        Args:
            kind: Which of the two.
            backend: The device; KeyError if it has none of this name.
            query: As the client asked: of which time, or of which calibration. Simulated devices have one.
        """

    async def held(self) -> frozenset[str]:
        """Return the unfinished submissions that it may have from before a restart; `run` follows without a claim."""

    def claim(self, qpu_job_id: str, backend: str, session_id: str) -> float | None:
        """Keep a place for a submission: 0 if it has one, and `run` must follow.

        Otherwise the seconds after which it is worth asking again, or None when only the end of another one, or
        `changed`, can make a place.
        """

    def give_back(self, qpu_job_id: str) -> None:
        """Give a place back that no `run` will use."""

    async def run(self, submission: Submission, started: Callable[[float], Awaitable[None]]) -> Outcome:
        """Run to the end, and give the place back; calls `started` with the time when the device began.

        Failures are outcomes, not exceptions. One that was given before, also to an earlier process, is found again
        and not submitted twice.
        """

    async def charge(self, qpu_job_id: str) -> float:
        """Return the seconds charged for a submission whose outcome did not tell, once they are final.

        0 for one that it never had.
        """

    async def cancel(self, qpu_job_id: str) -> None:
        """Have a submission's `run` end as cancelled soon; nothing happens if it neither runs nor was `held`."""

    async def release(self, session_id: str) -> None:
        """Close what a session holds: no submission follows. Comes again until it was carried out."""

    def conditions(self) -> Sequence[Condition]:
        """Return how each of its instances is doing."""
