"""Dashboards and rules against a real stack that works, and a real Prometheus: every query finds something."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import urllib.request
from typing import TYPE_CHECKING

import pytest
from dashboards import metrics_page, stored
from dashboards.checking import faults_of_queries
from dashboards.stored import StoredQuery

if TYPE_CHECKING:
    from dashboards.checking import Span
    from observed_stack import Observed

pytestmark = pytest.mark.timeout(600)
ALL = {"worker": ".+", "backend": ".+"}
LABEL_VALUES_MAX = 100
"""Of one label of one metric: more would not be a label."""


def test_every_query_of_every_panel_finds_something(observed: Observed, span: Span) -> None:
    empty = stored.declared_empty()
    assert faults_of_queries(observed.prometheus, stored.stored_queries(), span, empty, ALL) == []


def test_a_broken_panel_is_caught(observed: Observed, span: Span) -> None:
    healthy = StoredQuery("qonduit-overview", "Jobs that wait", "A", 'sum(qonduit_jobs{state="QUEUED"})', "short")
    broken = [
        dataclasses.replace(healthy, expr='sum(qonduit_jobs{state="WAITS"})'),
        dataclasses.replace(healthy, expr='sum(qonduit_jobs{state="QUEUED"}'),
        dataclasses.replace(healthy, expr="0 / sum(qonduit_jobs_requeued_total)"),
    ]
    assert faults_of_queries(observed.prometheus, [healthy], span, {}, ALL) == []
    faults = faults_of_queries(observed.prometheus, broken, span, {}, ALL)
    assert ["finds nothing" in fault for fault in faults] == [True, False, True]
    assert "parse error" in faults[1]


def test_variables_have_values(observed: Observed) -> None:
    for path in stored.DASHBOARDS.glob("*.json"):
        for metric in stored.variables_in(json.loads(path.read_text())).values():
            assert observed.prometheus.now(metric)


def test_every_rule_works_and_no_alert_fires(observed: Observed, span: Span) -> None:
    groups = observed.prometheus.ask("rules")["groups"]
    evaluated = {rule["name"]: rule for group in groups for rule in group["rules"]}
    assert set(evaluated) == {rule.name for rule in stored.rules()}
    assert [rule.get("lastError") for rule in evaluated.values() if rule["health"] != "ok"] == []
    recorded = [
        rule.name
        for rule in stored.rules()
        if not rule.is_alert and not observed.prometheus.range(rule.name, span.start, span.end, 1)
    ]
    assert recorded == []
    assert observed.prometheus.range('ALERTS{alertstate="firing"}', span.start, span.end, 1) == []


def test_both_books_of_qpu_seconds_agree(observed: Observed) -> None:
    observed.wait_for("ledger:qonduit_qpu_seconds:increase6h > 0")
    observed.wait_for(
        "abs(ledger:qonduit_qpu_seconds:increase6h - gateway:qonduit_job_stage_qpu_seconds:increase6h) < 0.001"
    )


def test_the_page_lists_all_that_services_export(observed: Observed) -> None:
    series = observed.prometheus.ask("series", **{"match[]": '{__name__=~"qonduit_.+"}'})
    names = {labels["__name__"] for labels in series}
    found = {re.sub("_(bucket|sum|count)$", "", name) for name in names if not name.endswith("_created")}
    listed = {metric.name for metrics in metrics_page.metrics_by_service().values() for metric in metrics}
    assert found <= listed
    assert len(found) > len(listed) / 2, "nearly all have shown themselves"


def test_labels_have_few_values(observed: Observed) -> None:
    values: dict[tuple[str, str], set[str]] = {}
    for labels in observed.prometheus.ask("series", **{"match[]": '{__name__=~"qonduit_.+"}'}):
        for label, value in labels.items():
            values.setdefault((labels["__name__"], label), set()).add(value)
    assert {place: len(found) for place, found in values.items() if len(found) > LABEL_VALUES_MAX} == {}
    assert not {label for _, label in values} & {"job_id", "task", "user", "worker", "session", "function"}


def test_prometheus_own_rules_for_metrics_hold(observed: Observed, promtool: str) -> None:
    for service in observed.stack.services:
        with urllib.request.urlopen(observed.stack.metrics_url(service), timeout=10) as answer:  # noqa: S310 - Ours.
            text: bytes = answer.read()
        done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False)
        told = [line for line in done.stderr.decode().splitlines() if line.startswith("qonduit_")]
        assert (done.returncode in {0, 3}, told) == (True, []), service
