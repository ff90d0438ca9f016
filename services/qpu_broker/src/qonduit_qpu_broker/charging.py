"""Books what was charged: in the ledger once, then in the shares, the metrics and the gateway's bill."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from qonduit_qpu_broker.fairness import Shares
from qonduit_qpu_broker.ledger import charges

if TYPE_CHECKING:
    from qonduit_service_kit.messages import QpuCharged

    from qonduit_qpu_broker.ledger.thread import LedgerThread
    from qonduit_qpu_broker.metrics import BrokerMetrics
    from qonduit_qpu_broker.outbox import Outbox

_HALF_LIFE_S = 3600.0
_FORGOTTEN_AFTER_S = 16 * _HALF_LIFE_S


class ChargeBook:
    """The one way in which seconds are counted."""

    def __init__(self, ledger: LedgerThread, outbox: Outbox, metrics: BrokerMetrics) -> None:
        self._ledger = ledger
        self._outbox = outbox
        self._metrics = metrics
        self.shares = Shares(_HALF_LIFE_S, time.time())

    async def start(self) -> None:
        """Take what was charged so far from the ledger."""
        now = time.time()
        self.shares = Shares(_HALF_LIFE_S, now)
        for user, seconds, at in await self._ledger.run(lambda open_: charges.since(open_, now - _FORGOTTEN_AFTER_S)):
            self.shares.charged(user, seconds, at)
        self._metrics.qpu_seconds.reset(await self._ledger.run(charges.by_device))

    async def stop(self) -> None:
        """Do nothing: all is in the ledger."""

    async def book_job(self, qpu_job_id: str, seconds: float) -> None:
        """Book what became known of a job after its end; a second time changes nothing."""
        now = time.time()
        self.booked(await self._ledger.insist(lambda open_: charges.book_job(open_, qpu_job_id, seconds, now)))

    async def book_session(self, charge_id: str, session_id: str, seconds: float) -> None:
        """Book what a dedicated session was charged; a second time changes nothing."""
        now = time.time()
        self.booked(
            await self._ledger.insist(lambda open_: charges.book_session(open_, charge_id, session_id, seconds, now))
        )

    def booked(self, charge: QpuCharged | None) -> None:
        """Count a charge that was written just now; None for one that was counted before."""
        if charge is not None:
            self.shares.charged(charge.user, charge.qpu_seconds, charge.at, typical=charge.mode != "dedicated")
            self._metrics.qpu_seconds.add(charge.backend, charge.mode, charge.qpu_seconds)
            self._outbox.wake()
