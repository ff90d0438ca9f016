"""What an operator wants of each pod: probes, limits, no rights, and settings that the service really has."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError
from qonduit_gateway.settings import GatewaySettings
from qonduit_qpu_broker.settings import QpuBrokerSettings
from qonduit_scheduler.settings import SchedulerSettings
from qonduit_storage.settings import StorageSettings
from qonduit_worker.settings import WorkerSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kustomized import Document
    from qonduit_service_kit.settings import ServiceSettings

SETTINGS: Final[dict[str, type[ServiceSettings]]] = {
    "gateway": GatewaySettings,
    "scheduler": SchedulerSettings,
    "storage": StorageSettings,
    "qpu-broker": QpuBrokerSettings,
    "worker": WorkerSettings,
}
_SECRET: Final = "amqp://user:password@host:5672/"
"""Stands for what a Secret holds."""
_UNITS: Final = {"": 1, "m": 0.001, "Mi": 1024**2, "Gi": 1024**3, "Ti": 1024**4}
_GRACE_S: Final = 60
"""Least time to stop: parts take up to 15 s each, one after another."""
_SERVING: Final = {"startupProbe", "readinessProbe"}


@dataclass(frozen=True, slots=True)
class Workload:
    """One of our services as it is deployed."""

    document: Document
    pod: Document
    container: Document

    @property
    def name(self) -> str:
        """The service."""
        return str(self.document["metadata"]["name"])

    @property
    def namespace(self) -> str:
        """Where it runs."""
        return str(self.document["metadata"]["namespace"])

    @property
    def labels(self) -> dict[str, str]:
        """What its pods are found by."""
        labels: dict[str, str] = self.document["spec"]["template"]["metadata"]["labels"]
        return labels

    @property
    def ports(self) -> dict[str, int]:
        """The ports of its container."""
        return {port["name"]: port["containerPort"] for port in self.container.get("ports", [])}


def workloads(documents: Sequence[Document]) -> list[Workload]:
    """Return everything that makes pods of our own images."""
    unseen = sorted({each["kind"] for each in documents} & {"CronJob", "Pod", "ReplicaSet", "ReplicationController"})
    if unseen:
        raise ValueError(f"the pods of a {unseen[0]} are not looked at here")
    made = [each for each in documents if each["kind"] in ("Deployment", "StatefulSet", "DaemonSet", "Job")]
    pods = [(each, each["spec"]["template"]["spec"]) for each in made]
    held = [(each, pod, [*pod.get("initContainers", []), *pod["containers"]]) for each, pod in pods]
    return [Workload(each, pod, container) for each, pod, containers in held for container in containers]


def quantity(text: object) -> float:
    """Return a Kubernetes quantity as a number."""
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(text)).groups()  # type: ignore[union-attr]
    return float(number) * _UNITS[unit]


def environment(workload: Workload, documents: Sequence[Document]) -> dict[str, str | None]:
    """Return the container's environment, None for what only the cluster knows."""
    maps = {each["metadata"]["name"]: each["data"] for each in documents if _is_config(each, workload)}
    known: dict[str, str | None] = {}
    for source in workload.container.get("envFrom", []):
        if "configMapRef" in source:
            known |= maps.get(source["configMapRef"]["name"], {})
    return known | {each["name"]: each.get("value") for each in workload.container.get("env", [])}


def _is_config(document: Document, workload: Workload) -> bool:
    return (document["kind"], document["metadata"].get("namespace")) == ("ConfigMap", workload.namespace)


def pod_problems(documents: Sequence[Document]) -> Iterator[str]:
    """Say what is wrong with our pods, one sentence each."""
    for workload in workloads(documents):
        checks = (_probes, _limits, _rights, _surroundings)
        yield from (f"{workload.name}: {problem}" for check in checks for problem in check(workload))
        yield from (f"{workload.name}: {problem}" for problem in _settings(workload, documents))


def _probes(workload: Workload) -> Iterator[str]:
    probes = {kind: workload.container.get(kind) for kind in ("startupProbe", "readinessProbe", "livenessProbe")}
    # A worker's has none on purpose: see worker.yaml.
    wanted = _SERVING if workload.name == "worker" else probes.keys()
    yield from (f"has no {kind}" for kind in sorted(wanted) if not probes[kind])
    for kind, probe in probes.items():
        for way in ("grpc", "httpGet", "tcpSocket"):
            port = (probe or {}).get(way, {}).get("port")
            if port is not None and port not in {*workload.ports, *workload.ports.values()}:
                yield f"{kind} asks port {port}, which the container does not have"


def _limits(workload: Workload) -> Iterator[str]:
    resources = workload.container.get("resources", {})
    for kind, what in (("requests", "cpu"), ("requests", "memory"), ("limits", "memory")):
        if what not in resources.get(kind, {}):
            yield f"has no {what} in its {kind}"
    for volume in workload.pod.get("volumes", []):
        if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
            yield f"its volume {volume['name']} may fill the node"


def _rights(workload: Workload) -> Iterator[str]:
    pod, own = workload.pod.get("securityContext", {}), workload.container.get("securityContext", {})
    wanted = {
        "must not run as root": pod.get("runAsNonRoot") is True and pod.get("runAsUser", 0) > 0,
        "needs a seccomp profile": pod.get("seccompProfile", {}).get("type") in ("RuntimeDefault", "Localhost"),
        "may write to its image": own.get("readOnlyRootFilesystem") is True,
        "may gain privileges": own.get("allowPrivilegeEscalation") is False,
        "keeps capabilities": own.get("capabilities") == {"drop": ["ALL"]},
        "is privileged": not own.get("privileged", False),
        "gets a token of the API server": workload.pod.get("automountServiceAccountToken") is False,
        "shares a namespace of its node": not {"hostNetwork", "hostPID", "hostIPC"} & workload.pod.keys(),
        "has hostPath volumes": not any("hostPath" in volume for volume in workload.pod.get("volumes", [])),
    }
    yield from (problem for problem, fine in wanted.items() if not fine)
    if own.get("procMount") == "Unmasked" and workload.pod.get("hostUsers") is not False:
        yield "procMount: Unmasked is refused by Kubernetes without hostUsers: false"


def _surroundings(workload: Workload) -> Iterator[str]:
    if workload.pod.get("enableServiceLinks") is not False:
        # They would put QONDUIT_... variables of the cluster's making beside the settings.
        yield "has no enableServiceLinks: false"
    if not workload.pod.get("terminationGracePeriodSeconds", 0) >= _GRACE_S:
        yield "has less time to stop than its parts may take"
    folders = [mount["mountPath"] for mount in workload.container.get("volumeMounts", [])]
    if "/tmp" not in folders:  # noqa: S108 - a mount in a container.
        yield "has no /tmp to write to"
    image = f"qonduit/{workload.name.replace('-', '_')}:{version(f'qonduit-{workload.name}')}"
    if workload.container["image"] != image:
        yield f"its image is {workload.container['image']}, and this repository makes {image}"


def _settings(workload: Workload, documents: Sequence[Document]) -> Iterator[str]:
    kind = SETTINGS.get(workload.name)
    if kind is None:
        yield "is no service of ours"
        return
    prefix = str(kind.model_config.get("env_prefix"))
    given = environment(workload, documents)
    values: dict[str, Any] = {}
    for name, value in given.items():
        field = name.removeprefix(prefix).lower()
        if not name.startswith(prefix) or field not in kind.model_fields:
            yield f"{name} is no setting of it"
        else:
            values[field] = _SECRET if value is None and "url" in field else "sample" if value is None else value
    try:
        settings = kind(**values)
    except ValidationError as error:
        yield from (f"{prefix}{problem['loc'][0]}: {problem['msg']}".upper() for problem in error.errors())
        return
    yield from _agreements(workload, settings)


def _agreements(workload: Workload, settings: ServiceSettings) -> Iterator[str]:
    """Compare settings with what stands elsewhere in the pod."""
    if (settings.metrics_host, settings.metrics_port) != ("0.0.0.0", workload.ports.get("metrics")):  # noqa: S104
        yield "its metrics are not served on its port metrics, to all"
    listens = getattr(settings, "listen_port", None)
    if listens is not None and (settings.listen_host, listens) != ("0.0.0.0", workload.ports.get("grpc")):  # type: ignore[attr-defined]  # noqa: S104
        yield "it does not listen on its port grpc, to all"
    rest = getattr(settings, "rest_port", None)
    if rest is not None and (settings.rest_host, rest) != ("0.0.0.0", workload.ports.get("rest")):  # type: ignore[attr-defined]  # noqa: S104
        yield "its REST front does not listen on its port rest, to all"
    folders = {mount["mountPath"] for mount in workload.container.get("volumeMounts", [])}
    for name in ("data_dir", "ready_file", "internal_key_file", "admin_token_file", "tls_cert", "tls_key"):
        path = getattr(settings, name, None)
        if path is not None and not folders & {str(path), *map(str, path.parents)}:
            yield f"{name} is {path}, where nothing is mounted"
    yield from _bounds(workload, settings)


def _bounds(workload: Workload, settings: ServiceSettings) -> Iterator[str]:
    """Compare what a service may use by its settings with what its container may."""
    limits = workload.container.get("resources", {}).get("limits", {})
    memory = quantity(limits.get("memory", 0))
    if isinstance(settings, WorkerSettings):
        if settings.cpu != quantity(limits.get("cpu", 0)):
            yield f"it leases {settings.cpu} cpu and its limit is {limits.get('cpu')}"
        if settings.mem + settings.dependency_mem_bytes > memory:
            yield "what it leases and one build of an environment are more than its memory"
        if settings.minimum_tier != "A" and settings.mem + settings.cpu * 2 * settings.tmp_bytes > memory:
            yield "what it leases and each core's program's /tmp and /dev/shm are more than its memory"
    if isinstance(settings, QpuBrokerSettings) and settings.simulator_memory_bytes + 512 * 1024**2 > memory:
        yield "the simulator's memory and the broker's own are more than its limit"
