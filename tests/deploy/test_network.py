"""Each service reaches what it talks to, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from kustomized import MANIFESTS, build, components, write_overlay
from network_rules import Actor, Network

if TYPE_CHECKING:
    from pathlib import Path

OURS = ("gateway", "scheduler", "storage", "qpu-broker")
ACTORS = {
    **{
        name: Actor("qonduit", {"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": "qonduit"})
        for name in OURS
    },
    "worker": Actor("qonduit-workers", {"app.kubernetes.io/name": "worker", "app.kubernetes.io/part-of": "qonduit"}),
    "rabbitmq": Actor("qonduit", {"app.kubernetes.io/name": "rabbitmq"}),
    "database": Actor("qonduit", {"cnpg.io/cluster": "database"}),
    "ingress": Actor("ingress"),
    "prometheus": Actor("monitoring"),
    "operators": Actor("operators"),
    "stranger": Actor("default"),
    "stranger beside the services": Actor("qonduit"),
    "stranger beside the workers": Actor("qonduit-workers"),
    "outside": Actor(address="203.0.113.7"),
    "metadata service": Actor(address="169.254.169.254"),
}
NAMESPACES = {
    "ingress": {"qonduit/clients": "true"},
    "monitoring": {"qonduit/monitoring": "true"},
    "operators": {"qonduit/operators": "true"},
    "default": {},
    "kube-system": {},
}
PORTS = {22, 80, 443, 4369, 5432, 5672, 6443, 7070, 7080, 8000, 9100, 9187, 15672, 15692, 25672}
"""Looked at beside those that policies name: what the servers listen on, and what strangers would like to reach."""
NEEDED = {
    *((name, "rabbitmq", 5672) for name in ("gateway", "scheduler", "qpu-broker", "worker")),
    *((name, "storage", 7070) for name in ("gateway", "qpu-broker", "worker")),
    ("gateway", "database", 5432),
    *(("ingress", "gateway", port) for port in (7070, 7080)),
    *(("prometheus", name, 9100) for name in (*OURS, "worker")),
    ("prometheus", "rabbitmq", 15692),
    ("prometheus", "database", 9187),
    *(("rabbitmq", "rabbitmq", port) for port in (4369, 25672)),
    *(("database", "database", port) for port in (5432, 8000)),
    ("operators", "rabbitmq", 15672),
    *(("operators", "database", port) for port in (5432, 8000)),
}
TO_THE_API_SERVER = {(server, "outside", port) for server in ("rabbitmq", "database") for port in (443, 6443)}
"""By address, since the API server is no pod."""


def connections(network: Network) -> set[tuple[str, str, int]]:
    return {
        (source, target, port)
        for source, source_actor in ACTORS.items()
        for target, target_actor in ACTORS.items()
        for port in PORTS | network.ports
        if {source_actor.namespace, target_actor.namespace} & {"qonduit", "qonduit-workers"}
        and network.allows(source_actor, target_actor, port)
    }


def test_connections_of_the_base() -> None:
    network = Network(build(MANIFESTS / "overlays" / "small"), NAMESPACES)
    assert connections(network) == NEEDED | TO_THE_API_SERVER


@pytest.mark.parametrize(
    ("component", "added"),
    [
        ("ibm-quantum", {("qpu-broker", "outside", 443)}),
        ("package-index", {("worker", "outside", 443)}),
        ("storage-s3", {("storage", "outside", 443)}),
        (
            "gateway-tls",
            {(source, "gateway", port) for source in ("outside", "metadata service") for port in (7070, 7080)},
        ),
        ("pod-monitors", set()),
    ],
)
def test_what_a_component_opens(component: str, added: set[tuple[str, str, int]], tmp_path: Path) -> None:
    assert component in components()
    write_overlay(tmp_path, "overlays/small", [component])
    assert connections(Network(build(tmp_path), NAMESPACES)) == NEEDED | TO_THE_API_SERVER | added


def test_every_pod_asks_the_name_server() -> None:
    names = [each for each in build(MANIFESTS / "overlays" / "small") if each["metadata"]["name"] == "names"]
    assert {each["metadata"]["namespace"] for each in names} == {"qonduit", "qonduit-workers"}
    for each in names:
        assert each["spec"]["podSelector"] == {}
        (rule,) = each["spec"]["egress"]
        assert {(port["protocol"], port["port"]) for port in rule["ports"]} == {("UDP", 53), ("TCP", 53)}
