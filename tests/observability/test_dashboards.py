"""The dashboards, without a stack: current, in the right units, of metrics that exist; and that the checks can fail."""

from __future__ import annotations

import dataclasses
import json

import pytest
from dashboards import metrics_page, stored
from dashboards.__main__ import stale_files
from dashboards.boards import BOARDS
from dashboards.checking import faults_of_names, faults_of_units
from dashboards.panels import Kind
from dashboards.stored import StoredQuery

HEAT_MAPS = {f"{board.uid}/{panel.title}" for board in BOARDS for panel in board.panels if panel.kind is Kind.BUCKETS}
QUERIES = stored.stored_queries()
RULES = stored.rules()
EXPORTED = {metric.name for metrics in metrics_page.metrics_by_service().values() for metric in metrics}
RECORDED = {rule.name for rule in RULES if not rule.is_alert}


def one(expr: str, unit: str) -> list[StoredQuery]:
    return [StoredQuery("board", "panel", "A", expr, unit)]


def test_what_is_checked_in_is_what_the_code_says() -> None:
    assert stale_files() == [], "run 'make dashboards'"


def test_a_stale_dashboard_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    path, text = next(iter(stored.fresh_dashboards().items()))
    monkeypatch.setattr(stored, "fresh_dashboards", lambda: {path: text.replace("Alerts", "alerts")})
    assert path in stale_files()


def test_every_panel_is_in_the_unit_of_its_metrics() -> None:
    assert faults_of_units(QUERIES, RULES, HEAT_MAPS) == []


@pytest.mark.parametrize(
    ("expr", "unit", "right"),
    [
        ("rate(qonduit_rpc_calls_total[5m])", "ops", True),
        ("rate(qonduit_rpc_calls_total[5m])", "s", False),
        ("sum(qonduit_rpc_calls_total)", "ops", False),
        ("sum(rate(qonduit_qpu_seconds_total[5m]))", "s", False),
        ("sum(increase(qonduit_qpu_seconds_total[5m]))", "s", True),
        ("qonduit_storage_free_bytes / qonduit_storage_size_bytes", "percentunit", True),
        ("qonduit_storage_free_bytes", "percentunit", False),
        ("rate(qonduit_storage_served_bytes_total[5m])", "bytes", False),
        ("histogram_quantile(0.5, rate(qonduit_rpc_seconds_bucket[5m]))", "s", True),
        ("histogram_quantile(0.5, rate(qonduit_rpc_seconds_bucket[5m]))", "short", False),
        ("instance:qonduit_storage_free:ratio", "percentunit", True),
        ("instance:qonduit_storage_free:ratio", "bytes", False),
        ("qonduit_jobs", "furlongs", False),
    ],
)
def test_a_wrong_unit_is_noticed(expr: str, unit: str, *, right: bool) -> None:
    assert (faults_of_units(one(expr, unit), RULES, ()) == []) == right


def test_only_metrics_that_exist_are_asked_for() -> None:
    asked = {query.place: stored.filled(query.expr, range_s=60) for query in QUERIES}
    asked |= {rule.name: rule.expr for rule in RULES}
    assert faults_of_names(asked, EXPORTED, RECORDED) == []
    assert faults_of_names({"here": "rate(qonduit_jbos_total[5m])"}, EXPORTED, RECORDED) == [
        "here asks for qonduit_jbos_total, which nobody exports"
    ]


def test_every_metric_is_shown_somewhere_or_known_not_to_be() -> None:
    unused = {
        line.split("`")[1]
        for line in metrics_page.page().splitlines()
        if line.startswith("| `") and line.endswith("|  |")
    }
    # By user: not there unless it is asked for. The scheduler's leases are what the workers say of theirs.
    assert {name for name in unused if not name.startswith("qonduit_user_")} == {
        "qonduit_build_info",
        "qonduit_scheduler_leases",
    }


def test_no_label_is_without_bounds() -> None:
    bound = {
        (metric.name, label)
        for metrics in metrics_page.metrics_by_service().values()
        for metric in metrics
        for label in metric.labels
        if label in {"job_id", "task", "user", "worker", "session", "function"}
    }
    assert {name for name, _ in bound} == {name for name in EXPORTED if name.startswith("qonduit_user_")}


def test_links_lead_to_runbooks() -> None:
    alerts = {alert for board in BOARDS for panel in board.panels for alert in panel.alerts}
    assert alerts <= {rule.name for rule in RULES if rule.is_alert}
    for path in stored.DASHBOARDS.glob("*.json"):
        for panel in json.loads(path.read_text())["panels"]:
            for link in panel.get("links", ()):
                assert (stored.RUNBOOKS / link["url"].removeprefix("${runbooks}/")).exists()


def test_every_alert_is_on_a_panel() -> None:
    linked = {alert for board in BOARDS for panel in board.panels for alert in panel.alerts}
    assert {rule.name for rule in RULES if rule.is_alert} == linked


def test_panels_are_told_apart_by_their_titles() -> None:
    for board in BOARDS:
        titles = [panel.title for panel in board.panels]
        assert len(titles) == len(set(titles))
        assert all(dataclasses.asdict(panel)["about"] for panel in board.panels)
