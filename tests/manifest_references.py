"""Whether everything that one manifest names is there in another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from manifest_pods import environment, workloads

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kustomized import Document
    from manifest_pods import Workload

BY_HAND: Final = {
    ("qonduit", "qonduit-internal-key"): {"key"},
    ("qonduit", "qonduit-admin-token"): {"token"},
    ("qonduit", "qonduit-amqp"): {"url"},
    ("qonduit-workers", "qonduit-amqp"): {"url"},
    ("qonduit", "qonduit-gateway-tls"): {"tls.crt", "tls.key"},
    ("qonduit", "qonduit-ibm"): {"token", "instance"},
    ("qonduit", "qonduit-s3"): {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"},
}
"""Secrets that docs/guides/kubernetes.md tells how to make, and their keys."""
SECRETS: Final = BY_HAND | {("qonduit", "database-app"): {"uri"}}
"""With the one that CloudNativePG makes of the Cluster `database`: of its keys, that which we use."""


def reference_problems(documents: Sequence[Document]) -> Iterator[str]:
    """Say which names lead nowhere."""
    there = {(_namespace(each), each["kind"], each["metadata"]["name"]) for each in documents}
    known = there | {(where, "Secret", name) for where, name in SECRETS}
    for workload in workloads(documents):
        for kind, name in _named(workload):
            if (workload.namespace, kind, name) not in known:
                yield f"{workload.name}: there is no {kind} {name}"
        yield from _mounts(workload)
        yield from _keys(workload, documents)
        yield from _addresses(workload, documents)
    yield from _twice(documents)
    yield from _priorities(documents)
    yield from _selectors(documents)
    yield from _spreading(documents)
    yield from _service_ports(documents)
    for each in documents:
        if _namespace(each) and ("", "Namespace", _namespace(each)) not in there:
            yield f"{each['kind']} {each['metadata']['name']}: there is no namespace {_namespace(each)}"


def _namespace(document: Document) -> str:
    return str(document["metadata"].get("namespace", ""))


def _twice(documents: Sequence[Document]) -> Iterator[str]:
    names = [(_namespace(each), each["kind"], each["metadata"]["name"]) for each in documents]
    yield from (f"{' '.join(name)} is there twice" for name in sorted(set(names)) if names.count(name) > 1)


def _named(workload: Workload) -> Iterator[tuple[str, str]]:
    yield "ServiceAccount", workload.pod["serviceAccountName"]
    if workload.document["kind"] == "StatefulSet":
        yield "Service", workload.document["spec"]["serviceName"]
    kinds = {
        "configMapRef": "ConfigMap",
        "secretRef": "Secret",
        "secretKeyRef": "Secret",
        "configMapKeyRef": "ConfigMap",
    }
    sources: list[Document] = [*workload.container.get("envFrom", [])]
    sources += [each["valueFrom"] for each in workload.container.get("env", []) if "valueFrom" in each]
    for source in sources:
        yield from ((kind, source[key]["name"]) for key, kind in kinds.items() if key in source)
    for volume in workload.pod.get("volumes", []):
        if "secret" in volume:
            yield "Secret", volume["secret"]["secretName"]
        if "configMap" in volume:
            yield "ConfigMap", volume["configMap"]["name"]


def _mounts(workload: Workload) -> Iterator[str]:
    claims = workload.document["spec"].get("volumeClaimTemplates", [])
    volumes = {each["name"] for each in workload.pod.get("volumes", [])} | {each["metadata"]["name"] for each in claims}
    mounted = {each["name"] for each in workload.container.get("volumeMounts", [])}
    yield from (f"{workload.name}: mounts {name}, which is no volume" for name in sorted(mounted - volumes))
    yield from (f"{workload.name}: its volume {name} is mounted nowhere" for name in sorted(volumes - mounted))


def _keys(workload: Workload, documents: Sequence[Document]) -> Iterator[str]:
    """Each key that is asked of a Secret, as a variable or as a file that a setting names, must be one of its keys."""
    for each in workload.container.get("env", []):
        asked = each.get("valueFrom", {}).get("secretKeyRef")
        if asked and asked["key"] not in SECRETS.get((workload.namespace, asked["name"]), ()):
            yield f"{workload.name}: the Secret {asked['name']} has no key {asked['key']}"
    secrets = {
        each["name"]: each["secret"]["secretName"] for each in workload.pod.get("volumes", []) if "secret" in each
    }
    for mount in workload.container.get("volumeMounts", []):
        keys = SECRETS.get((workload.namespace, secrets.get(mount["name"], "")), set())
        for name, value in environment(workload, documents).items():
            folder, _, file = str(value).rpartition("/")
            if mount["name"] in secrets and folder == mount["mountPath"] and file not in keys:
                yield f"{workload.name}: {name} is {value}, and {secrets[mount['name']]} has no key {file}"


def _addresses(workload: Workload, documents: Sequence[Document]) -> Iterator[str]:
    """Every address in the settings must be a port of a Service, by its full name."""
    known = {
        f"{each['metadata']['name']}.{_namespace(each)}.svc:{port['port']}"
        for each in documents
        if each["kind"] == "Service"
        for port in each["spec"]["ports"]
    }
    for name, value in environment(workload, documents).items():
        if name.endswith("_ADDRESS") and value not in known:
            yield f"{workload.name}: {name} is {value}, which is no port of a Service"


def _pods(documents: Sequence[Document]) -> list[tuple[str, dict[str, str], set[Any]]]:
    """Return namespace, labels and ports (by name and number) of everything that makes pods."""
    pods = [(each.namespace, each.labels, {*each.ports, *each.ports.values()}) for each in workloads(documents)]
    servers = {"RabbitmqCluster": "app.kubernetes.io/name", "Cluster": "cnpg.io/cluster"}
    for each in documents:
        if each["kind"] in servers:
            found_by = {servers[each["kind"]]: each["metadata"]["name"]}
            pods.append((_namespace(each), found_by, {"prometheus", "metrics"}))
    return pods


def within(value: Any, key: str) -> Iterator[Any]:
    """Return every value of a key, however deep."""
    if isinstance(value, dict) and key in value:
        yield value[key]
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from within(inner, key)


def _priorities(documents: Sequence[Document]) -> Iterator[str]:
    """A pod of an unknown class is refused, and an operator tells of that in its log alone."""
    there = {each["metadata"]["name"] for each in documents if each["kind"] == "PriorityClass"}
    for each in documents:
        missing = set(within(each, "priorityClassName")) - there
        yield from (f"{each['metadata']['name']}: there is no PriorityClass {name}" for name in sorted(missing))


def _spreading(documents: Sequence[Document]) -> Iterator[str]:
    """Pods are spread among those that a constraint selects, so it must select themselves."""
    for each in documents:
        for constraints in within(each, "topologySpreadConstraints"):
            for constraint in constraints:
                labels = constraint["labelSelector"]["matchLabels"]
                if labels != {"app.kubernetes.io/name": each["metadata"]["name"]}:
                    yield f"{each['kind']} {each['metadata']['name']} is spread among {labels}, not among its own pods"


def _selectors(documents: Sequence[Document]) -> Iterator[str]:
    """Whoever selects pods must find some."""
    for each in documents:
        spec = each.get("spec", {})
        selector = (
            spec.get("podSelector", {}).get("matchLabels") if each["kind"] == "NetworkPolicy" else spec.get("selector")
        )
        if not selector:
            continue
        labels = selector.get("matchLabels", selector)
        if not any(where == _namespace(each) and labels.items() <= has.items() for where, has, _ in _pods(documents)):
            yield f"{each['kind']} {each['metadata']['name']} selects no pod of {_namespace(each)}"


def _service_ports(documents: Sequence[Document]) -> Iterator[str]:
    for each in documents:
        if each["kind"] not in ("Service", "PodMonitor"):
            continue
        spec = each["spec"]
        labels = spec["selector"].get("matchLabels", spec["selector"])
        wanted = [port["targetPort"] for port in spec.get("ports", [])]
        wanted += [endpoint["port"] for endpoint in spec.get("podMetricsEndpoints", [])]
        for where, has, ports in _pods(documents):
            if where == _namespace(each) and labels.items() <= has.items():
                missing = [port for port in wanted if port not in ports]
                yield from (f"{each['kind']} {each['metadata']['name']}: no port {port} there" for port in missing)
