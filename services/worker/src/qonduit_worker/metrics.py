"""Every metric of the worker, each defined once."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, Histogram
from qonduit_service_kit.metrics import REGISTRY

_TASK_BUCKETS: Final = (0.001, 0.01, 0.1, 1, 10, 60, 600, 3600)
"""Few: tasks are many, and each is looked for in them one by one."""

LEASES: Final = Gauge("qonduit_worker_leases", "Leases in force.", ["kind"], registry=REGISTRY)
CAPACITY_CPU: Final = Gauge("qonduit_worker_capacity_cpu_cores", "CPU that may be leased.", registry=REGISTRY)
CAPACITY_MEM: Final = Gauge("qonduit_worker_capacity_mem_bytes", "Memory that may be leased.", registry=REGISTRY)
USED_CPU: Final = Gauge("qonduit_worker_leased_cpu_cores", "CPU that is leased.", registry=REGISTRY)
USED_MEM: Final = Gauge("qonduit_worker_leased_mem_bytes", "Memory that is leased.", registry=REGISTRY)
FORKS: Final = Counter("qonduit_worker_forks", "Sandboxes made.", ["kind"], registry=REGISTRY)
FORK_SECONDS: Final = Histogram(
    "qonduit_worker_fork_seconds",
    "From the order to a program that is about to begin.",
    buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
    registry=REGISTRY,
)
PREPARE_SECONDS: Final = Histogram(
    "qonduit_worker_prepare_seconds",
    "From a driver's grant to its fork: artifact, arguments and files.",
    buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
    registry=REGISTRY,
)
STAGE_CPU: Final = Counter(
    "qonduit_worker_stage_cpu_seconds", "CPU time of drivers and of their tasks.", ["stage"], registry=REGISTRY
)
TASKS_FINISHED: Final = Counter(
    "qonduit_tasks_finished", "Tasks of drivers that run here, by how they ended.", ["state"], registry=REGISTRY
)
TASK_LOSSES: Final = Counter(
    "qonduit_task_losses", "Executors that finished tasks took along, or that were lost under them.", registry=REGISTRY
)
TASK_QUEUE_SECONDS: Final = Histogram(
    "qonduit_task_queue_seconds",
    "From the submission of a task to the start of its last attempt.",
    buckets=_TASK_BUCKETS,
    registry=REGISTRY,
)
TASK_RUN_SECONDS: Final = Histogram(
    "qonduit_task_run_seconds",
    "From the start of a task's last attempt until its driver knew its end.",
    buckets=_TASK_BUCKETS,
    registry=REGISTRY,
)
BLOB_BYTES: Final = Counter(
    "qonduit_worker_blob_bytes",
    "Bytes of values and artifacts: kept here for an attempt, uploaded to storage, fetched from it.",
    ["way"],
    registry=REGISTRY,
)
LOG_BYTES: Final = Counter("qonduit_worker_log_bytes", "Output of drivers sent to storage.", registry=REGISTRY)
ENDINGS: Final = Counter("qonduit_worker_drivers_ended", "Drivers by how they ended.", ["reason"], registry=REGISTRY)
OOM_KILLS: Final = Counter("qonduit_worker_oom_kills", "Sandboxes over their memory.", ["kind"], registry=REGISTRY)
SANDBOX_TIER: Final = Gauge("qonduit_worker_sandbox_tier", "1 for the tier in use.", ["tier"], registry=REGISTRY)
EVENTS_WAITING: Final = Gauge("qonduit_worker_events_waiting", "Events not yet confirmed.", registry=REGISTRY)
GRANTS: Final = Counter("qonduit_worker_grants", "Grants by what became of them.", ["admission"], registry=REGISTRY)
FENCINGS: Final = Counter(
    "qonduit_worker_fencings", "Times that this worker ended all it ran, being cut off.", registry=REGISTRY
)
BUILDS: Final = Counter(
    "qonduit_worker_layer_builds", "Builds of functions' environments by outcome.", ["outcome"], registry=REGISTRY
)
BUILD_SECONDS: Final = Histogram(
    "qonduit_worker_layer_build_seconds",
    "From the first to the last step of a build.",
    buckets=(0.5, 1, 2.5, 5, 10, 30, 60, 300, 900),
    registry=REGISTRY,
)
LAYER_BYTES: Final = Gauge("qonduit_worker_layer_bytes", "Size of the functions' environments here.", registry=REGISTRY)
