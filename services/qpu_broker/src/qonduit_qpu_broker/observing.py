"""Looks now and then at what is counted nowhere as it happens: open sessions, and how each account is doing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qonduit_qpu_broker.ledger import sessions
from qonduit_qpu_broker.ledger import upstream as upstream_rows

if TYPE_CHECKING:
    from qonduit_qpu_broker.ledger.thread import LedgerThread
    from qonduit_qpu_broker.metrics import BrokerMetrics
    from qonduit_qpu_broker.upstream import Upstream

LOOK_S = 5.0


class Observer:
    """Sets the gauges from the ledger and the upstream."""

    def __init__(self, ledger: LedgerThread, upstream: Upstream, metrics: BrokerMetrics) -> None:
        self._ledger = ledger
        self._upstream = upstream
        self._metrics = metrics

    async def look(self) -> None:
        """Look once."""
        self._metrics.sessions.set(await self._ledger.run(sessions.open_by_device))
        self._metrics.upstream_sessions.set(await self._ledger.run(upstream_rows.open_by_device))
        ill = {one.name for one in self._upstream.conditions() if one.state in {"failing", "refused"}}
        self._metrics.accounts.set({(one.name,): float(one.name not in ill) for one in self._upstream.conditions()})
