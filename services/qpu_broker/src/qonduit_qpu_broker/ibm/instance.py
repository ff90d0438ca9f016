"""One instance of one account: what it offers, how much it takes, how it is doing."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from qonduit_service_kit.logs import get_logger

from qonduit_qpu_broker.ibm.pace import Backoff, Breaker, SubmissionLimit
from qonduit_qpu_broker.ibm.rest import Rest, UpstreamError
from qonduit_qpu_broker.upstream import Condition, Device

if TYPE_CHECKING:
    from collections.abc import Callable

    from qonduit_qpu_broker.ibm.accounts import Account
    from qonduit_qpu_broker.ibm.rest import Reply
    from qonduit_qpu_broker.upstream import Description, Query

_log = get_logger("ibm")
_THROTTLED_S = 15.0
_OFFLINE_AGAIN_S = 30.0
_DESCRIBED_FOR_S = 300.0


class Instance:
    """Asks on behalf of everybody, and remembers how that went."""

    def __init__(self, account: Account, crn: str, changed: Callable[[], None]) -> None:
        self.account = account
        self.crn = crn
        self.limit = SubmissionLimit(account.submissions_a_minute)
        self.devices: dict[str, Device] = {}
        self.retired = False
        """No longer among the accounts: what is there is followed to its end, and nothing is sent."""
        self._rest = Rest(account, crn)
        self._breaker = Breaker()
        self._refused = ""
        self._in_flight: dict[str, str] = {}
        self._changed = changed
        self._described: dict[str, tuple[bytes, float]] = {}

    def close(self) -> None:
        """Ask nothing more."""
        self._rest.close()

    def sign_in(self, account: Account) -> None:
        """Use an account's new settings and credentials."""
        self._rest.close()
        self.account, self._rest, self._refused, self.retired = account, Rest(account, self.crn), "", False
        self._breaker.succeeded()

    # --- Asking --------------------------------------------------------------------------------

    async def call(self, method: str, path: str, **options: Any) -> Reply:
        """Return the answer to one request, sent once; see `Rest.call`."""
        try:
            reply = await self._rest.call(method, path, **options)
        except UpstreamError as error:
            self._note(error)
            raise
        self._well()
        return reply

    async def ask(self, method: str, path: str, *, patience_s: float | None = None, **options: Any) -> Reply:
        """Return the answer to a request that may be repeated, however often it takes.

        Raises:
            UpstreamError: It was refused in a way that a later try does not change, or `patience_s` is over.
        """
        backoff, begin = Backoff(), time.monotonic()
        while True:
            try:
                return await self.call(method, path, **options)
            except UpstreamError as error:
                over = patience_s is not None and time.monotonic() - begin >= patience_s
                if over or not (error.fault or error.throttled or error.refused):
                    raise
                _log.info("asking again", instance=self.account.name, method=method, path=path, reason=str(error))
                wait_s = max(backoff.next_s(), error.retry_after_s or 0.0)
            await asyncio.sleep(wait_s)

    async def describe(self, kind: Description, backend: str, query: Query) -> bytes:
        """Return a device's description as the provider words it; that of now is kept for five minutes."""
        path = f"/backends/{backend}/{kind}"
        if query:
            return (await self.call("GET", path, query=query)).body
        kept, at = self._described.get(path, (b"", 0.0))
        if not kept or time.monotonic() - at > _DESCRIBED_FOR_S:
            kept = (await self.call("GET", path)).body
            self._described[path] = (kept, time.monotonic())
        return kept

    async def look_at_devices(self) -> None:
        """Read the list of devices, however often that takes."""
        listed = (await self.ask("GET", "/backends")).json().get("devices", ())
        self.devices = {device.name: device for device in map(_device, listed)}
        self._changed()

    # --- Places --------------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """How many submissions have a place."""
        return len(self._in_flight)

    def room_in(self, backend: str, now: float) -> float | None:
        """Return 0 if a submission has a place now; else when to ask again, None if an end makes the next place."""
        device = self.devices.get(backend)
        if device is None or not device.online or self._refused or self.retired:
            return _OFFLINE_AGAIN_S
        at_device = Counter(self._in_flight.values())[backend]
        if at_device >= self.account.jobs_a_device or self.in_flight >= self.account.jobs_at_once:
            return None
        return max(self.limit.ready_in(now), self._breaker.ready_in(now))

    def keep(self, qpu_job_id: str, backend: str) -> None:
        """Keep a place."""
        self._in_flight[qpu_job_id] = backend

    def give_back(self, qpu_job_id: str) -> None:
        """Give a place back."""
        self._in_flight.pop(qpu_job_id, None)

    def sending_in(self, now: float) -> float:
        """Return the seconds until one that has a place may be sent."""
        return max(self.limit.ready_in(now), self._breaker.ready_in(now))

    def condition(self, now: float) -> Condition:
        """Return how it is doing."""
        state, text, until = "ok", f"Offers {len(self.devices)} devices.", None
        limited_s, failing_s = self.limit.ready_in(now), self._breaker.ready_in(now)
        if self._refused:
            state = "refused"
            text = f"{self._refused} Correct the token of the account {self.account.name!r} and send the broker SIGHUP."
        elif self._breaker.is_open():
            state, until = "failing", now + failing_s
            text = f"{self._breaker.failures} requests in a row failed, the last one so: {self._breaker.reason}"
        elif limited_s:
            state, until = "limited", now + limited_s
            asked = self.limit.held_until > now
            text = (
                "The provider asked to wait."
                if asked
                else f"{self.account.submissions_a_minute} jobs were submitted within a minute, the most that may be."
            )
        return Condition(self.account.name, self.crn, state, text, until, self.in_flight)

    def _note(self, error: UpstreamError) -> None:
        now = time.time()
        if error.refused:
            self._refused = str(error)
        elif error.throttled:
            self.limit.hold(now + (_THROTTLED_S if error.retry_after_s is None else error.retry_after_s))
        elif error.fault:
            self._breaker.failed(str(error), now)
            if error.retry_after_s:
                self.limit.hold(now + error.retry_after_s)
        else:
            self._well()

    def _well(self) -> None:
        was_ill = bool(self._refused) or self._breaker.is_open()
        self._refused = ""
        self._breaker.succeeded()
        if was_ill:
            self._changed()


def _device(listed: dict[str, Any]) -> Device:
    processor = listed.get("processor_type") or {}
    status = listed.get("status") or {}
    return Device(
        name=str(listed["name"]),
        qubits=int(listed.get("qubits") or 0),
        family=str(processor.get("family", "")),
        revision=str(processor.get("revision", "")),
        version=str(listed.get("backend_version", "")),
        basis_gates=tuple(listed.get("basis_gates") or ()),
        online=status.get("name") == "online",
        simulated=False,
        waiting=int(listed.get("queue_length") or 0),
    )
