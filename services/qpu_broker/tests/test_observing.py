"""What is looked at for the metrics: it comes, and it goes again."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from prometheus_client import CollectorRegistry
from qonduit_qpu_broker.ledger import sessions
from qonduit_qpu_broker.ledger import upstream as rows
from qonduit_qpu_broker.ledger.thread import LedgerThread
from qonduit_qpu_broker.metrics import BrokerMetrics
from qonduit_qpu_broker.observing import Observer
from qonduit_qpu_broker.upstream import Condition

if TYPE_CHECKING:
    from pathlib import Path

    from qonduit_qpu_broker.upstream import Upstream

SESSION = sessions.NewSession("job-1", "ada", 1, "driver", 1, "s", "dedicated", "ibm_torino", "crn:", 60)


class Accounts:
    """As much of an upstream as is asked."""

    def __init__(self) -> None:
        self.states = {"lab": ["ok", "refused"], "work": ["limited"]}

    def conditions(self) -> list[Condition]:
        """Return one for each instance."""
        return [Condition(name, "crn:", state, "", None, 0) for name, states in self.states.items() for state in states]


async def test_open_sessions_and_ill_accounts_are_seen_until_they_are_gone(tmp_path: Path) -> None:
    registry, ledger, accounts = CollectorRegistry(), LedgerThread(tmp_path / "ledger.sqlite3"), Accounts()
    device = {"backend": "ibm_torino", "mode": "dedicated"}
    await ledger.start()
    observer = Observer(ledger, cast("Upstream", accounts), BrokerMetrics(registry))
    opened = await ledger.run(lambda open_: sessions.open_session(open_, SESSION))
    held = rows.UpstreamSession("c1", opened.session_id, "crn:", "dedicated", "ibm_torino", 1.0, "u1", False, None)  # noqa: FBT003 -- a row.
    await ledger.run(lambda open_: rows.intend_session(open_, held))

    await observer.look()
    assert registry.get_sample_value("qonduit_qpu_open_sessions", device) == 1
    assert registry.get_sample_value("qonduit_qpu_open_upstream_sessions", device) == 1
    assert registry.get_sample_value("qonduit_qpu_account_ok", {"account": "lab"}) == 0
    assert registry.get_sample_value("qonduit_qpu_account_ok", {"account": "work"}) == 1

    await ledger.run(lambda open_: sessions.close(open_, opened.session_id))
    await ledger.run(lambda open_: rows.session_closed(open_, "c1", 2.0))
    accounts.states = {"lab": ["ok"]}
    await observer.look()
    assert registry.get_sample_value("qonduit_qpu_open_sessions", device) is None
    assert registry.get_sample_value("qonduit_qpu_open_upstream_sessions", device) is None
    assert registry.get_sample_value("qonduit_qpu_account_ok", {"account": "lab"}) == 1
    assert registry.get_sample_value("qonduit_qpu_account_ok", {"account": "work"}) is None
    await ledger.stop()
