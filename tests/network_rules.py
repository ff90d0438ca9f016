"""Who may connect to whom, as network policies decide it."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kustomized import Document


@dataclass(frozen=True, slots=True)
class Actor:
    """A pod of some namespace, or an address outside."""

    namespace: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    address: str = ""


class Network:
    """The policies of some manifests, and what the namespaces of others are called."""

    def __init__(self, documents: Sequence[Document], namespaces: Mapping[str, Mapping[str, str]]) -> None:
        own = {
            each["metadata"]["name"]: each["metadata"]["labels"] for each in documents if each["kind"] == "Namespace"
        }
        every = {**own, **namespaces}
        self._own = set(own)
        self._labels = {name: {"kubernetes.io/metadata.name": name, **labels} for name, labels in every.items()}
        self._policies = [each for each in documents if each["kind"] == "NetworkPolicy"]

    @property
    def ports(self) -> set[int]:
        """Every port that some policy names."""
        specs = [each["spec"] for each in self._policies]
        rules = [rule for spec in specs for way in ("ingress", "egress") for rule in spec.get(way, [])]
        return {each["port"] for rule in rules for each in rule.get("ports", [])}

    def allows(self, source: Actor, target: Actor, port: int) -> bool:
        """Whether a TCP connection gets through: out of the source's policies, and into the target's."""
        return self._passes("Egress", source, target, port) and self._passes("Ingress", target, source, port)

    def _passes(self, way: str, held: Actor, other: Actor, port: int) -> bool:
        if held.namespace not in self._own:
            return True  # Policies of others are not ours.
        holding = [
            each["spec"] for each in self._policies if self._holds(each, held) and way in each["spec"]["policyTypes"]
        ]
        if not holding:
            return True
        key, side = ("egress", "to") if way == "Egress" else ("ingress", "from")
        rules = [(spec, rule) for spec in holding for rule in spec.get(key, [])]
        return any(_has_port(rule, port) and self._has_peer(rule.get(side), other, held.namespace) for _, rule in rules)

    def _holds(self, policy: Document, actor: Actor) -> bool:
        return policy["metadata"]["namespace"] == actor.namespace and _matches(
            policy["spec"]["podSelector"], actor.labels
        )

    def _has_peer(self, peers: list[Document] | None, other: Actor, home: str) -> bool:
        return peers is None or any(self._is_peer(peer, other, home) for peer in peers)

    def _is_peer(self, peer: Document, other: Actor, home: str) -> bool:
        if "ipBlock" in peer:
            block = peer["ipBlock"]
            inside = (
                [ip_address(other.address) in ip_network(cidr) for cidr in block.get("except", [])]
                if other.address
                else []
            )
            return bool(other.address) and ip_address(other.address) in ip_network(block["cidr"]) and not any(inside)
        if other.address:
            return False
        if "namespaceSelector" in peer:
            if not _matches(peer["namespaceSelector"], self._labels[other.namespace]):
                return False
        elif other.namespace != home:
            return False
        return _matches(peer.get("podSelector", {}), other.labels)


def _matches(selector: Document, labels: Mapping[str, str]) -> bool:
    unknown = selector.keys() - {"matchLabels"}
    if unknown:
        raise ValueError(f"{sorted(unknown)} of a selector are not understood here")
    wanted: dict[str, str] = selector.get("matchLabels", {})
    return wanted.items() <= labels.items()


def _has_port(rule: Document, port: int) -> bool:
    ports: list[dict[str, Any]] | None = rule.get("ports")
    for each in ports or ():
        if each.keys() != {"protocol", "port"} or not isinstance(each["port"], int):
            raise ValueError(f"the port {each} of a rule is not understood here")
    return ports is None or any(each["protocol"] == "TCP" and each["port"] == port for each in ports)
