"""What an operator may set, all of it."""

from __future__ import annotations

import os
import socket
import uuid
from pathlib import Path  # noqa: TC003 - pydantic reads the annotations.
from typing import Literal

import psutil
from pydantic import Field
from qonduit_service_kit.messages import Shape
from qonduit_service_kit.settings import ServiceSettings

from qonduit_worker.dependencies import BuildRules

_GIB = 1024**3
_MEM_SHARE = 0.8
_RESOLVER = frozenset(
    (
        "PATH",
        "HOME",
        "USER",
        "NETRC",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "SSL_CLIENT_CERT",
        "XDG_CONFIG_HOME",
        "XDG_CONFIG_DIRS",
    )
)
_PROXIES = frozenset(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"))


def _default_mem_bytes() -> int:
    return int(psutil.virtual_memory().total * _MEM_SHARE)


class WorkerSettings(ServiceSettings, env_prefix="QONDUIT_WORKER_"):
    """Settings of the worker, from QONDUIT_WORKER_*."""

    worker_id: str = Field(
        "", pattern=r"^[A-Za-z0-9._-]{0,100}$", description="Name of this worker; '' keeps one in the data folder."
    )
    storage_address: str = Field("127.0.0.1:8082", description="host:port of the storage service.")
    storage_ca: Path | None = Field(None, description="CA (PEM) of the storage service; without it no TLS.")
    cpu: float = Field(16, gt=0, description="CPU to lease, in cores. They are shares: more than there are is fine.")
    mem: int = Field(default_factory=_default_mem_bytes, gt=0, description="Memory to lease, in bytes.")
    gpus: int = Field(0, ge=0, description="GPUs to lease.")
    minimum_tier: Literal["A", "B", "C"] = Field("A", description="The weakest sandbox to run programs in.")
    allow_weaker_sandbox: bool = Field(
        default=False, description="Run programs in a weaker sandbox all the same, and say in the log what is missing."
    )
    heartbeat_s: float = Field(5.0, gt=0, description="Seconds between heartbeats that tell nothing new.")
    lease_ttl_s: float = Field(
        30.0, gt=0, description="Cut off from RabbitMQ for so many seconds, the worker ends all that it runs."
    )
    cancel_grace_s: float = Field(5.0, ge=0, description="Seconds from SIGTERM to SIGKILL when the time limit ends.")
    usage_s: float = Field(5.0, gt=0, description="Seconds between reports of what a driver has used.")
    preload: tuple[str, ...] = Field(
        (
            "numpy",
            "qiskit",
            "qiskit.qpy",
            "qiskit.transpiler",
            "qiskit_ibm_runtime",
            "qonduit.encoding",
            "qonduit.job",
            "qonduit.program.executor",
            "qonduit.program.runner",
            "qonduit.program.runtime_redirect",
            "qonduit.program.serial.circuits",
            "qonduit.program.serial.layouts",
            "qonduit.program.tasks",
        ),
        description="Modules that programs find imported, as a JSON list.",
    )
    warm: bool = Field(
        default=True, description="Also build a target and transpile once before programs of one CPU are forked."
    )
    file_bytes: int = Field(16 * _GIB, gt=0, description="Size of the largest file that a program may write.")
    refused_kept_s: float = Field(
        24 * 3600,
        ge=0,
        description="Seconds for which what a program left in /data, and storage refused, is kept on this machine.",
    )
    refused_bytes: int = Field(4 * _GIB, ge=0, description="Most that is kept of them; the oldest give way.")
    tmp_bytes: int = Field(2 * _GIB, gt=0, description="Size of a program's /tmp.")
    artifact_bytes: int = Field(4 * _GIB, gt=0, description="Most that an artifact may unpack to.")
    result_bytes: int = Field(_GIB, gt=0, description="Largest result.")
    cache_bytes: int = Field(
        8 * _GIB,
        gt=0,
        description="Bytes that jobs' values, artifacts and files may take here; half of it bounds a value.",
    )
    cache_kept_s: float = Field(
        24 * 3600,
        gt=0,
        description="Seconds after which those of them that nobody uses are removed here, whatever room there is.",
    )
    dependency_find_links: tuple[str, ...] = Field(
        (), description="Folders or pages of wheels for dependencies, as a JSON list, beside what uv is set to use."
    )
    dependency_no_index: bool = Field(default=False, description="Look for dependencies in find_links alone.")
    dependency_sources: bool = Field(
        default=False, description="Build source distributions too. That runs the code of strangers outside a sandbox."
    )
    dependency_addresses: bool = Field(default=False, description="Accept dependencies that name an address or a path.")
    dependency_time_limit_s: float = Field(900.0, gt=0, description="Seconds that one environment may take to build.")
    dependency_layer_bytes: int = Field(8 * _GIB, gt=0, description="Most that one environment may take on disk.")
    dependency_mem_bytes: int = Field(2 * _GIB, gt=0, description="Most memory that building one may take.")
    dependency_cache_bytes: int = Field(16 * _GIB, gt=0, description="Size of this machine's cache of environments.")
    pids: int = Field(512, gt=0, description="Processes and threads that one program may have.")
    log_patience_s: float = Field(10.0, ge=0, description="Seconds that a job's end waits for storage to take its log.")
    storage_patience_s: float = Field(60.0, ge=0, description="Seconds that a call to storage is tried again.")

    @property
    def build_rules(self) -> BuildRules:
        """What building the environments of functions may do."""
        return BuildRules(
            find_links=self.dependency_find_links,
            no_index=self.dependency_no_index,
            sources=self.dependency_sources,
            addresses=self.dependency_addresses,
            time_limit_s=self.dependency_time_limit_s,
            layer_bytes=self.dependency_layer_bytes,
            mem_bytes=self.dependency_mem_bytes,
        )

    @property
    def capacity(self) -> Shape:
        """What may be leased in all."""
        return Shape(int(self.cpu * 1000), self.mem, self.gpus)


def resolver_environment() -> dict[str, str]:
    """Return what uv is told of this process's environment: its own settings and pip's, and how to reach a network.

    Programs see nothing of it: an index may want a password.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if name in _RESOLVER or name.upper() in _PROXIES or name.startswith(("UV_", "PIP_"))
    }


def known_worker_id(settings: WorkerSettings) -> str:
    """Return this worker's name: the one that was set, else one that stays with the data folder."""
    if settings.worker_id:
        return settings.worker_id
    path: Path = settings.data_dir / "worker-id"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{socket.gethostname()[:40]}-{uuid.uuid4().hex[:8]}")
    return path.read_text().strip()
