"""One instance of one account: what it offers, how much it takes, how it is doing."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from qonduit_service_kit.logs import get_logger

from qonduit_qpu_broker.ibm.metrics import REQUESTS, RETRIES, outcome_of
from qonduit_qpu_broker.ibm.pace import Backoff, Breaker, SubmissionLimit
from qonduit_qpu_broker.ibm.rest import MOCKS_TOO, Lane, Rest, UpstreamError
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
        self._breakers = {Lane.SUBMIT: Breaker(), Lane.CONTROL: Breaker(), Lane.RESULTS: Breaker()}
        self._refused = ""
        self._changed = changed
        self._described: dict[str, tuple[bytes, float]] = {}

    def close(self) -> None:
        """Ask nothing more."""
        self._rest.close(drop=True)

    def sign_in(self, account: Account) -> None:
        """Use an account's new settings and credentials."""
        self._rest.close(drop=False)
        self.account, self._rest, self._refused, self.retired = account, Rest(account, self.crn), "", False
        self.limit = self.limit.of(account.submissions_a_minute)
        for breaker in self._breakers.values():
            breaker.succeeded()

    # --- Asking --------------------------------------------------------------------------------

    async def call(self, method: str, path: str, *, lane: Lane = Lane.CONTROL, **options: Any) -> Reply:
        """Return the answer to one request, sent once; see `Rest.call`."""
        try:
            reply = await self._rest.call(method, path, lane=lane, **options)
        except UpstreamError as error:
            REQUESTS.labels(self.account.name, method, outcome_of(error)).inc()
            self._note(error, lane)
            raise
        REQUESTS.labels(self.account.name, method, "ok").inc()
        self._well(lane)
        return reply

    async def ask(self, method: str, path: str, *, patience_s: float | None = None, **options: Any) -> Reply:
        """Return the answer to a request that may be repeated, however often it takes.

        Args:
            method: Of the request.
            path: Below the API's base.
            patience_s: How long it is repeated, without the time in which the credentials are refused; None for ever.
            options: As for `call`.

        Raises:
            UpstreamError: It was refused in a way that a later try does not change, or the patience is over.
        """
        backoff, spent_s = Backoff(), 0.0
        while True:
            begin = time.monotonic()
            try:
                return await self.call(method, path, **options)
            except UpstreamError as error:
                if not (error.fault or error.throttled or error.refused):
                    raise
                if patience_s is not None and spent_s >= patience_s and not error.refused:
                    raise
                _log.info("asking again", instance=self.account.name, method=method, path=path, reason=str(error))
                RETRIES.labels(self.account.name, "request").inc()
                wait_s, counts = max(backoff.next_s(), error.retry_after_s or 0.0), not error.refused
            await asyncio.sleep(wait_s)
            spent_s += (time.monotonic() - begin) * counts

    async def document(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """Return the JSON object that `ask` is answered with; what is none is no answer, and asked for again."""
        backoff = Backoff()
        while True:
            reply = await self.ask(method, path, **options)
            try:
                return reply.json()
            except UpstreamError as error:
                _log.warning("an answer is not JSON", instance=self.account.name, path=path)
                self._note(error, Lane.CONTROL)
            await asyncio.sleep(backoff.next_s())

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

    async def look_at_devices(self) -> bool:
        """Read the list of devices once; False, and as it was, when that fails."""
        try:
            listed = (await self.call("GET", "/backends", query=MOCKS_TOO)).json().get("devices") or ()
            self.devices = {device.name: device for device in map(_device, listed)}
        except (UpstreamError, KeyError, TypeError, ValueError, AttributeError) as error:
            _log.warning("the devices can't be listed", instance=self.account.name, reason=str(error))
            return False
        self._changed()
        return True

    # --- Places --------------------------------------------------------------------------------

    @property
    def is_usable(self) -> bool:
        """Whether something new may go there."""
        return not self.retired and not self._refused

    def room_in(self, backend: str, at_device: int, at_all: int, now: float) -> float | None:
        """Return 0 if a submission has a place now; else when to ask again, None if an end makes the next place.

        Args:
            backend: The device.
            at_device: How many have a place there.
            at_all: How many have one in the instance.
            now: Seconds since the epoch.
        """
        device = self.devices.get(backend)
        if device is None or not device.online or not self.is_usable:
            return _OFFLINE_AGAIN_S
        if at_device >= self.account.jobs_a_device or at_all >= self.account.jobs_at_once:
            return None
        return self.sending_in(now)

    def sending_in(self, now: float) -> float:
        """Return the seconds until one that has a place may be sent."""
        if self.retired:
            return _OFFLINE_AGAIN_S
        return max(self.limit.ready_in(now), *(breaker.ready_in(now) for breaker in self._breakers.values()))

    def condition(self, in_flight: int, now: float) -> Condition:
        """Return how it is doing."""
        state, text, until = "ok", f"Offers {len(self.devices)} devices.", None
        open_breakers = [breaker for breaker in self._breakers.values() if breaker.is_open()]
        limited_s = self.limit.ready_in(now)
        if self._refused:
            state = "refused"
            text = f"{self._refused} Correct the token of the account {self.account.name!r} and send the broker SIGHUP."
        elif open_breakers:
            worst = max(open_breakers, key=lambda breaker: breaker.open_until)
            state, until = "failing", max(now, worst.open_until)
            text = f"{worst.failures} requests in a row failed, the last one so: {worst.reason}"
        elif limited_s:
            state, until = "limited", now + limited_s
            asked = self.limit.held_until > now
            text = (
                "The provider asked to wait."
                if asked
                else f"{self.account.submissions_a_minute} jobs were submitted within a minute, the most that may be."
            )
        return Condition(self.account.name, self.crn, state, text, until, in_flight)

    def _note(self, error: UpstreamError, lane: Lane) -> None:
        now = time.time()
        if error.refused:
            self._refused = str(error)
        elif error.throttled:
            self.limit.hold(now + (_THROTTLED_S if error.retry_after_s is None else error.retry_after_s))
        elif error.fault:
            self._breakers[lane].failed(str(error), now)
            if error.retry_after_s:
                self.limit.hold(now + error.retry_after_s)
        else:
            self._well(lane)

    def _well(self, lane: Lane) -> None:
        was_ill = bool(self._refused) or self._breakers[lane].is_open()
        self._refused = ""
        self._breakers[lane].succeeded()
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
        mock=listed.get("class") == "mock",
        waiting=int(listed.get("queue_length") or 0),
    )
