"""The instances of all accounts, as the settings say now."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from typing import TYPE_CHECKING

from qonduit_service_kit.logs import get_logger

from qonduit_qpu_broker.ibm.accounts import AccountsError
from qonduit_qpu_broker.ibm.instance import Instance
from qonduit_qpu_broker.ibm.pace import LIMIT_WINDOW_S, Backoff
from qonduit_qpu_broker.ibm.rest import UpstreamError, instances_of
from qonduit_qpu_broker.ledger import upstream as rows
from qonduit_qpu_broker.upstream import Condition

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from qonduit_qpu_broker.ibm.accounts import Account
    from qonduit_qpu_broker.ledger.thread import LedgerThread
    from qonduit_qpu_broker.upstream import Description, Device, Query

_log = get_logger("ibm")
_START_S = 10.0
_LOOK_AGAIN_S = 30.0
_CRN = "crn:"


class Fleet:
    """Finds the instances, looks at their devices, and reads the accounts again on SIGHUP. A service part."""

    def __init__(
        self, read: Callable[[], Sequence[Account]], ledger: LedgerThread, changed: Callable[[], None]
    ) -> None:
        self._read = read
        self._ledger = ledger
        self._notify = changed
        self._instances: dict[str, Instance] = {}
        self._unfound: dict[str, tuple[str, bool]] = {}
        """By account: why its instances are not known, and whether its credentials are refused."""
        self._finding: dict[str, asyncio.Task[None]] = {}
        self._looking: asyncio.Task[None] | None = None
        self._changed = asyncio.Condition()

    async def start(self) -> None:
        """Sign in to all accounts; those that don't answer are tried on. AccountsError."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self.reload)
        self._sign_in(self._read())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.found(), _START_S)
        self._looking = asyncio.create_task(self._look_for_ever(), name="ibm-devices")

    async def stop(self) -> None:
        """Let go."""
        asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)
        tasks = [task for task in (*self._finding.values(), self._looking) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for instance in self._instances.values():
            instance.close()

    def reload(self) -> None:
        """Read the accounts again: tokens are renewed, accounts join and leave; what runs is followed to its end."""
        try:
            accounts = self._read()
        except AccountsError as error:
            _log.error("the accounts stay as they were", reason=str(error))
            return
        self._sign_in(accounts)
        _log.info("the accounts were read again", accounts=[account.name for account in accounts])

    async def found(self) -> None:
        """Return once all accounts' instances and devices are known."""
        if self._finding:
            await asyncio.wait(self._finding.values())

    def get(self, crn: str) -> Instance | None:
        """Return an instance, also one that is retired, or None."""
        return self._instances.get(crn)

    def instances(self) -> list[Instance]:
        """Return those that the accounts have now."""
        return [one for one in self._instances.values() if not one.retired]

    async def wait_for(self, crn: str) -> Instance:
        """Return an instance, once an account has it: one with jobs may have been taken out of the accounts."""
        async with self._changed:
            await self._changed.wait_for(lambda: crn in self._instances)
        return self._instances[crn]

    def offering(self, backend: str) -> list[Instance]:
        """Return the instances that have a device."""
        return [one for one in self._instances.values() if backend in one.devices]

    def devices(self) -> list[Device]:
        """Return all devices, each name once, the ones with the shortest queue first."""
        found = {device.name: device for one in self.instances() for device in one.devices.values()}
        return sorted(found.values(), key=lambda device: (device.waiting, device.name))

    async def describe(self, kind: Description, backend: str, query: Query) -> bytes:
        """Return a device's configuration or properties, from whichever instance gives it.

        Raises:
            KeyError: None has the device.
            UpstreamError: None gives it now.
        """
        error: Exception = KeyError(backend)
        for instance in sorted(self.offering(backend), key=lambda one: not one.is_usable):
            try:
                return await instance.describe(kind, backend, query)
            except UpstreamError as caught:
                error = caught
        raise error

    def conditions(self, in_flight: Mapping[str, int], now: float) -> list[Condition]:
        """Return how each instance is doing, with what is there, and each account whose instances are not known."""
        unfound = [
            Condition(name, "", "refused" if refused else "failing", text, None, 0)
            for name, (text, refused) in self._unfound.items()
        ]
        return [*(one.condition(in_flight.get(one.crn, 0), now) for one in self.instances()), *unfound]

    def _sign_in(self, accounts: Sequence[Account]) -> None:
        """Use these accounts: what is known of them goes on at once, the rest is found."""
        for task in self._finding.values():
            task.cancel()
        self._unfound.clear()
        by_name = {account.name: account for account in accounts}
        for instance in self._instances.values():
            if (account := by_name.get(instance.account.name)) is not None:
                instance.sign_in(account)
            else:
                instance.retired = True
        self._finding = {
            account.name: asyncio.create_task(self._find(account), name=f"find-{account.name}") for account in accounts
        }

    async def _find(self, account: Account) -> None:
        """Find an account's instances and their devices, however often that takes."""
        backoff = Backoff(first_s=1.0)
        while True:
            try:
                crns = await _crns(account)
                break
            except UpstreamError as error:
                self._unfound[account.name] = (str(error), error.refused)
                _log.warning("an account can't be used", account=account.name, reason=str(error))
            await asyncio.sleep(backoff.next_s())
        self._unfound.pop(account.name, None)
        for crn in crns:
            if (known := self._instances.get(crn)) is None:
                self._instances[crn] = await self._new(account, crn)
            elif known.account != account or known.retired:
                known.sign_in(account)
        for instance in self._instances.values():
            if instance.account.name == account.name and instance.crn not in crns:
                instance.retired = True
        async with self._changed:
            self._changed.notify_all()
        left = {crn for crn in crns if not await self._instances[crn].look_at_devices()}
        while left:
            await asyncio.sleep(backoff.next_s())
            left = {crn for crn in left if not await self._instances[crn].look_at_devices()}

    async def _new(self, account: Account, crn: str) -> Instance:
        """Return an instance that knows what was sent to it in the last minute."""
        instance, since = Instance(account, crn, self._notify), time.time() - LIMIT_WINDOW_S
        for sent_at in await self._ledger.insist(lambda ledger: rows.intents_since(ledger, crn, since)):
            instance.limit.take(sent_at)
        return instance

    async def _look_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_AGAIN_S)
            await asyncio.gather(*(instance.look_at_devices() for instance in self.instances()))


async def _crns(account: Account) -> list[str]:
    """Return the CRNs of the instances that an account is to use; UpstreamError names one that it does not have."""
    if account.instances and all(name.startswith(_CRN) for name in account.instances):
        return list(account.instances)
    found = await asyncio.to_thread(instances_of, account)
    if not account.instances:
        return [crn for crn, _ in found]
    chosen = [crn for crn, name in found if {crn, name} & set(account.instances)]
    missing = set(account.instances) - {known for pair in found for known in pair}
    if missing:
        there = ", ".join(sorted(name for _, name in found)) or "none"
        raise UpstreamError(f"The account has no instance {', '.join(sorted(missing))}; it has: {there}.", status=404)
    return chosen
