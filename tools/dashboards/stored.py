"""What is in deploy/: the dashboards as Grafana gets them, and the rules as Prometheus does."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import promql_parser
import yaml

from dashboards.boards import BOARDS
from dashboards.grafana import to_json

ROOT: Final = Path(__file__).resolve().parents[2]
DASHBOARDS: Final = ROOT / "deploy" / "grafana" / "dashboards"
RULES: Final = ROOT / "deploy" / "prometheus" / "rules"
RUNBOOKS: Final = ROOT / "docs" / "runbooks"


@dataclass(frozen=True, slots=True)
class StoredQuery:
    """One query of a panel, as it stands in a dashboard's JSON."""

    board: str
    panel: str
    letter: str
    expr: str
    unit: str
    """Grafana's name of it; of a heat map's rows, not of its cells."""

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return f"{self.board}, panel '{self.panel}', query {self.letter}"


@dataclass(frozen=True, slots=True)
class Rule:
    """A recording rule, or an alert."""

    name: str
    expr: str
    is_alert: bool
    labels: dict[str, str]
    annotations: dict[str, str]


def fresh_dashboards() -> dict[Path, str]:
    """Return what the files of the dashboards should be."""
    return {DASHBOARDS / f"{board.uid}.json": to_json(board) for board in BOARDS}


def stored_queries() -> list[StoredQuery]:
    """Return every query of every dashboard."""
    return [query for path in sorted(DASHBOARDS.glob("*.json")) for query in queries_in(json.loads(path.read_text()))]


def queries_in(board: dict[str, Any]) -> list[StoredQuery]:
    """Return every query of a dashboard's JSON, also those that fill its variables."""
    found = []
    for panel in board["panels"]:
        unit = panel.get("options", {}).get("yAxis", {}).get("unit") or ""
        unit = unit or panel.get("fieldConfig", {}).get("defaults", {}).get("unit", "")
        found += [
            StoredQuery(board["uid"], panel["title"], target["refId"], target["expr"], unit)
            for target in panel.get("targets", ())
        ]
    return found


def variables_in(board: dict[str, Any]) -> dict[str, str]:
    """Return the metric behind each variable of a dashboard's JSON that asks Prometheus."""
    asked = (variable for variable in board["templating"]["list"] if variable["type"] == "query")
    return {variable["name"]: variable["query"].removeprefix("label_values(").split(",")[0] for variable in asked}


def declared_empty() -> dict[tuple[str, str, str], str]:
    """Return why some queries may find nothing in a healthy system, by dashboard, panel and letter."""
    return {
        (board.uid, panel.title, letter): query.empty
        for board in BOARDS
        for panel in board.panels
        for letter, query in zip("ABCDEFGH", panel.queries, strict=False)
        if query.empty
    }


def filled(expr: str, *, range_s: float, rate_s: float = 15, variables: dict[str, str] | None = None) -> str:
    """Return an expression as Grafana would send it, with everything chosen in the dashboard's own variables."""
    values = {"__rate_interval": f"{rate_s:.0f}s", "__interval": "1s", "__range": f"{range_s:.0f}s"}
    for name, value in sorted((values | (variables or {})).items(), reverse=True):
        expr = expr.replace(f"${{{name}}}", value).replace(f"${name}", value)
    return expr


def rules() -> list[Rule]:
    """Return all rules, in the order of their files."""
    found = []
    for path in sorted(RULES.glob("*.yaml")):
        for group in yaml.safe_load(path.read_text())["groups"]:
            for rule in group["rules"]:
                name = rule.get("alert") or rule["record"]
                found.append(
                    Rule(name, rule["expr"], "alert" in rule, rule.get("labels", {}), rule.get("annotations", {}))
                )
    return found


def metrics_of(expr: str) -> set[str]:
    """Return the names of all metrics that an expression asks for."""
    names: set[str] = set()

    def visit(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector) and node.name:
            names.add(node.name)

    promql_parser.walk(promql_parser.parse(expr), visit)
    return names
