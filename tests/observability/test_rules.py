"""The rules: each alert fires when it should and not otherwise, and tells whoever it wakes what to do."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import pytest
import yaml
from dashboards.stored import ROOT, RULES, RUNBOOKS, Rule, rules

ALERTS = [rule for rule in rules() if rule.is_alert]
TESTS = sorted((RULES.parent / "tests").glob("*.yaml"))


def cases() -> list[dict[str, Any]]:
    return [
        check
        for path in TESTS
        for test in yaml.safe_load(path.read_text())["tests"]
        for check in test["alert_rule_test"]
    ]


def test_prometheus_accepts_rules_and_configuration(promtool: str) -> None:
    for kind, paths in {"config": [RULES.parent / "prometheus.yaml"], "rules": sorted(RULES.glob("*.yaml"))}.items():
        done = subprocess.run([promtool, "check", kind, *paths], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_fire_when_they_should_and_not_otherwise(promtool: str) -> None:
    done = subprocess.run([promtool, "test", "rules", *TESTS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_an_alert_is_tried_both_ways_and_says_what_to_do(alert: Rule) -> None:
    tried = {bool(case["exp_alerts"]) for case in cases() if case["alertname"] == alert.name}
    assert tried == {True, False}, "promtool must see it fire, and see it not fire"
    assert alert.labels["severity"] in {"critical", "warning"}
    assert {"summary", "description", "runbook_url"} <= set(alert.annotations)
    assert re.search(r"\$value|\d|minute|hour|labels", alert.annotations["description"])
    runbook = ROOT / alert.annotations["runbook_url"]
    assert runbook == RUNBOOKS / f"{alert.name}.md"
    text = runbook.read_text()
    for heading in ("What it means", "What users notice", "What to look at", "What to do"):
        assert f"## {heading}" in text
    assert f"({alert.name}.md)" in (RUNBOOKS / "README.md").read_text()


def test_every_runbook_is_of_an_alert() -> None:
    assert {path.stem for path in RUNBOOKS.glob("*.md")} == {alert.name for alert in ALERTS} | {"README"}
