"""What `qonduit doctor` looks at."""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

import qonduit
from qonduit import stack
from qonduit.exceptions import QonduitError
from qonduit.settings import find_target
from qonduit.stack.rabbitmq_home import RabbitNodeError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qonduit.stack.layout import Layout

_OLDEST_PYTHON = (3, 11)
_LOW_DISK_BYTES = 2 * 1024**3


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    good: bool
    text: str


def run_checks(layout: Layout) -> list[Check]:
    """Look at everything; nothing is raised."""
    return [*_machine(layout), *_stack(layout), *_server()]


def _machine(layout: Layout) -> Iterator[Check]:
    python = ".".join(map(str, sys.version_info[:3]))
    yield Check("python", sys.version_info >= _OLDEST_PYTHON, f"{python} ({sys.executable})")
    yield Check("qonduit", good=True, text=qonduit.__version__)
    try:
        yield Check("rabbitmq", good=True, text=str(stack.find_rabbitmq()))
    except RabbitNodeError as error:
        yield Check("rabbitmq", good=False, text=str(error))
    try:
        stack.check_installed(stack.wanted_services(1))
        yield Check("services", good=True, text="all installed")
    except QonduitError as error:
        yield Check("services", good=False, text=str(error))
    try:
        yield Check("uv", good=True, text=f"{metadata.version('uv')}: functions may bring dependencies")
    except metadata.PackageNotFoundError:
        text = "missing: the worker cannot build what functions depend on; pip install uv in its environment"
        yield Check("uv", good=False, text=text)
    folder = next(path for path in (layout.data_dir, *layout.data_dir.parents) if path.exists())
    free = shutil.disk_usage(folder).free
    yield Check("disk", free > _LOW_DISK_BYTES, f"{free / 1024**3:.1f} GiB free for {layout.data_dir}")


def _stack(layout: Layout) -> Iterator[Check]:
    state, services = stack.status(layout)
    if not state.running:
        yield Check("stack", good=True, text=f"none runs in {layout.data_dir}")
        return
    ill = [f"{service.name} is {service.state}" for service in services if not service.good]
    advice = "; see `qonduit logs SERVICE`" if ill else ""
    yield Check("stack", not ill, (", ".join(ill) or f"{state.phase}, {len(services)} processes") + advice)


def _server() -> Iterator[Check]:
    try:
        target = find_target()
    except QonduitError as error:
        yield Check("server", good=False, text=str(error))
        return
    began = time.monotonic()
    try:
        with qonduit.ServerlessClient() as client:
            info = client.cluster.info()
            took_ms = (time.monotonic() - began) * 1000
            text = f"{info.version} at {target.address} as {info.user} ({took_ms:.0f} ms), from {target.origin}"
            yield Check("server", info.version == qonduit.__version__, text)
            workers = client.cluster.workers()
    except QonduitError as error:
        yield Check("server", good=False, text=f"{error} ({target.origin})")
        return
    told = [f"{worker.worker_id}: sandbox tier {worker.sandbox_tier or 'unknown'}" for worker in workers]
    yield Check("workers", bool(workers), "; ".join(told) or "none: nothing can run")
