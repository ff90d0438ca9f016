"""The services of a stack on one machine, and what each is told through its environment."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from qonduit.settings import AGENT_SOCKET_VARIABLE
from qonduit.stack.errors import NotInstalledError, PortInUseError
from qonduit.stack.rabbitmq_data import LOOPBACK, free_port, is_free

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from qonduit.stack.layout import Layout

STOP_ORDER: Final = (("worker",), ("scheduler", "qpu_broker"), ("gateway",), ("storage",), ("rabbitmq",))
"""What is stopped together, in this order: nothing loses what it still needs."""
_SERVING: Final = frozenset({"gateway", "storage"})
"""Services with a gRPC port beside the one for metrics."""
_NEED_STORAGE: Final = frozenset({"gateway", "worker", "qpu_broker"})
_MEM_SHARE: Final = 0.8


@dataclass(frozen=True, slots=True)
class Service:
    """One process of the stack."""

    name: str
    """"gateway", "worker", "worker-2", ..."""
    kind: str
    """"gateway", "worker", ..."""

    @property
    def module(self) -> str:
        """What `python -m` runs."""
        return f"qonduit_{self.kind}"


def wanted_services(workers: int) -> list[Service]:
    """Return the services; the first worker is called "worker", the next "worker-2"."""
    names = ["worker", *(f"worker-{number}" for number in range(2, workers + 1))][:workers]
    control = [Service(name, name) for name in ("storage", "gateway", "scheduler", "qpu_broker")]
    return [*control, *(Service(name, "worker") for name in names)]


def check_installed(wanted: list[Service]) -> None:
    """Raise NotInstalledError, with what to do, if a service cannot be started."""
    missing = sorted({service.module for service in wanted if not importlib.util.find_spec(f"{service.module}")})
    if missing:
        packages = ", ".join(name.replace("_", "-") for name in missing)
        raise NotInstalledError(f"{packages} cannot be found. Install all services: pip install 'qonduit[stack]'")


def choose_ports(wanted: list[Service], known: Mapping[str, int], gateway_port: int | None) -> dict[str, int]:
    """Return a free port for each purpose; those of the last start are kept if they are still free.

    Raises:
        PortInUseError: The gateway's port was asked for, and is taken.
    """
    ports: dict[str, int] = {}
    for service in wanted:
        for purpose in _purposes(service):
            key = f"{service.name}.{purpose}"
            port = known.get(key, 0)
            taken = set(ports.values())
            while not port or port in taken or not is_free(port):
                port = free_port()
            ports[key] = port
    if gateway_port is not None:
        if not is_free(gateway_port):
            raise PortInUseError(
                f"Port {gateway_port} is in use: stop what listens there, or give another with --port. "
                "Without --port a free one is taken."
            )
        ports["gateway.port"] = gateway_port
    return ports


def _purposes(service: Service) -> tuple[str, ...]:
    """Return what a service needs ports for."""
    return (
        *(("port",) if service.kind in _SERVING else ()),
        "metrics_port",
        *(("rest_port",) if service.kind == "gateway" else ()),
    )


def environment(
    service: Service, layout: Layout, ports: Mapping[str, int], amqp_url: str, workers: int
) -> dict[str, str]:
    """Return a service's environment: the user's own, so that any setting can be given, and the wiring."""
    prefix = f"QONDUIT_{service.kind.upper()}_"
    values: dict[str, str | Path | int] = {
        "AMQP_URL": amqp_url,
        "DATA_DIR": layout.service_dir(service.name),
        "METRICS_PORT": ports[f"{service.name}.metrics_port"],
        "INTERNAL_KEY_FILE": layout.internal_key,
        "READY_FILE": layout.ready_file(service.name),
    }
    defaults: dict[str, str | int] = {"LOG_FORMAT": "text"}
    if service.kind in _SERVING:
        values["LISTEN_PORT"] = ports[f"{service.name}.port"]
    if service.kind in _NEED_STORAGE:
        values["STORAGE_ADDRESS"] = f"{LOOPBACK}:{ports['storage.port']}"
    if service.kind == "gateway":
        values["ADMIN_TOKEN_FILE"] = layout.admin_token
        defaults["REST_PORT"] = ports["gateway.rest_port"]
    if service.kind == "worker":
        # The programs are those of the user who runs this stack: a weaker sandbox is said, not refused.
        defaults["ALLOW_WEAKER_SANDBOX"] = "true"
        if workers > 1:
            defaults["MEM"] = int(_total_mem_bytes() * _MEM_SHARE / workers)
    return {
        **{prefix + key: str(value) for key, value in defaults.items()},
        **inherited_environment(),
        **{prefix + key: str(value) for key, value in values.items()},
    }


def inherited_environment() -> dict[str, str]:
    """Return what every process of the stack has in its environment: the user's own."""
    inherited = {key: value for key, value in os.environ.items() if key != AGENT_SOCKET_VARIABLE}
    return inherited | {"PYTHONUNBUFFERED": "1"}


def _total_mem_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
