"""compose.observability.yaml: what it mounts is there, and nothing in it runs with more rights than it needs."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from dashboards.stored import ROOT

DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.observability.yaml").read_text())
SERVICES = list(COMPOSE["services"].items())
PROVISIONED = DEPLOY / "grafana" / "provisioning"


@pytest.mark.parametrize(("name", "service"), SERVICES, ids=[name for name, _ in SERVICES])
def test_a_service_is_locked_up(name: str, service: dict[str, Any]) -> None:
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert int(service["user"].partition(":")[0]) > 0
    assert service["image"].startswith(f"${{{name.upper()}_IMAGE:-")
    assert service["image"].removesuffix("}").rpartition(":")[2] not in {"", "latest"}
    ports = service.get("ports", [])
    assert all("127.0.0.1" in port for port in ports)
    assert bool(ports) == (name == "grafana")


def test_what_is_mounted_is_there() -> None:
    for _, service in SERVICES:
        for mount in service["volumes"]:
            source = mount.partition(":")[0]
            assert (DEPLOY / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]


def test_grafana_finds_what_is_mounted() -> None:
    (source,) = yaml.safe_load((PROVISIONED / "datasources" / "prometheus.yaml").read_text())["datasources"]
    (provider,) = yaml.safe_load((PROVISIONED / "dashboards" / "qonduit.yaml").read_text())["providers"]
    mounts = {mount.split(":")[1] for mount in COMPOSE["services"]["grafana"]["volumes"]}
    assert provider["options"]["path"] in mounts
    assert source["url"] == "http://prometheus:9090"
    scraped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text())["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scraped
    board = json.loads((DEPLOY / "grafana" / "dashboards" / "qonduit-overview.json").read_text())
    runbooks = next(each for each in board["templating"]["list"] if each["name"] == "runbooks")["query"]
    assert f"/usr/share/grafana{runbooks}" in mounts or f"/usr/share/grafana/public{runbooks}" in mounts
