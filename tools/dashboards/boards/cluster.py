"""How full the workers are, and how well they are packed."""

from __future__ import annotations

from typing import Final

from dashboards.panels import Board, Colour, Kind, Panel, Query, Row, Threshold, Unit, Variable, never, quantiles

_ONE: Final = '{instance=~"$worker"}'


def _room(resource: str, title: str, unit: Unit) -> Panel:
    chosen = f'{{resource="{resource}"}}'
    used = f"leader:qonduit_scheduler_allocated:sum{chosen}"
    return Panel(
        f"{title}: used and free",
        "What leases hold, and what is left of what the workers offer.",
        (
            Query(used, "used"),
            Query(f"clamp_min(leader:qonduit_scheduler_capacity:sum{chosen} - {used}, 0)", "free"),
        ),
        unit,
        Kind.STACKED,
    )


_WORKERS: Final = Row(
    "Worker by worker",
    (
        Panel(
            "CPU leased",
            "Share of each worker's cpu; a row is a worker.",
            (
                Query(
                    f"qonduit_worker_leased_cpu_cores{_ONE} / qonduit_worker_capacity_cpu_cores{_ONE}", "{{instance}}"
                ),
            ),
            Unit.RATIO,
            Kind.ROWS,
            width=12,
            maximum=1,
        ),
        Panel(
            "Memory leased",
            "Share of each worker's memory; a row is a worker.",
            (
                Query(
                    f"qonduit_worker_leased_mem_bytes{_ONE} / qonduit_worker_capacity_mem_bytes{_ONE}", "{{instance}}"
                ),
            ),
            Unit.RATIO,
            Kind.ROWS,
            width=12,
            maximum=1,
        ),
    ),
)

_ROOM: Final = Row(
    "Room",
    (
        _room("cpu", "CPU", Unit.COUNT),
        _room("memory", "Memory", Unit.BYTES),
        _room("gpu", "GPUs", Unit.COUNT),
        Panel(
            "Packing",
            "Leased of what is offered. While something waits, the fuller the better; more than all cpu is leased "
            "while a driver has taken back what it lent.",
            (Query("resource:qonduit_leased:ratio", "{{resource}}"),),
            Unit.RATIO,
        ),
        Panel(
            "Busy of what is leased",
            "CPU that programs and tasks really use, of the cpu that they lease; drivers that wait for a QPU lease and "
            "don't use.",
            (
                Query(
                    f"sum(rate(qonduit_worker_stage_cpu_seconds_total{_ONE}[$__rate_interval])) "
                    f"/ sum(avg_over_time(qonduit_worker_leased_cpu_cores{_ONE}[$__rate_interval]) > 0)",
                    "cpu",
                ),
            ),
            Unit.RATIO,
        ),
        Panel(
            "What waits",
            "CPU that all that waits for room needs together, beside what is free.",
            (
                Query(
                    'sum(qonduit_scheduler_waiting_resources{resource="cpu"} '
                    "and on (job, instance) qonduit_scheduler_leader == 1)",
                    "wanted",
                ),
                Query(
                    'clamp_min(leader:qonduit_scheduler_capacity:sum{resource="cpu"} - '
                    'leader:qonduit_scheduler_allocated:sum{resource="cpu"}, 0)',
                    "free",
                ),
            ),
            Unit.COUNT,
            alerts=("QonduitLongWait", "QonduitNothingStarts"),
        ),
    ),
)

_SCHEDULING: Final = Row(
    "Scheduling",
    (
        Panel(
            "Leases",
            "Leases held.",
            (Query(f"sum by (kind) (qonduit_worker_leases{_ONE})", "{{kind}}"),),
            Unit.COUNT,
            Kind.STACKED,
        ),
        Panel(
            "In the queue",
            "Drivers and executors that wait for room, and workers kept free for what has waited long.",
            (
                Query("leader:qonduit_scheduler_waiting:sum", "{{kind}}"),
                Query("max(qonduit_scheduler_reservations)", "workers kept free"),
            ),
            Unit.COUNT,
            alerts=("QonduitLongWait",),
        ),
        Panel(
            "Leases granted",
            "A second; beside them, what workers refused or had already.",
            (
                Query("sum by (kind) (rate(qonduit_scheduler_placements_total[$__rate_interval]))", "{{kind}}"),
                Query(
                    f"sum by (admission) (rate(qonduit_worker_grants_total{_ONE}[$__rate_interval]))",
                    "grant {{admission}}",
                ),
            ),
            Unit.PER_SECOND,
        ),
        Panel(
            "Time to decide",
            "The scheduler's time for one event, placements included; below a millisecond it is not the bottleneck.",
            quantiles("qonduit_scheduler_decision_seconds", of=(0.5, 0.99)),
            Unit.SECONDS,
        ),
        Panel(
            "Who leads",
            "1 for the scheduler that leads. Several lines at 1 are several leaders.",
            (Query("qonduit_scheduler_leader", "{{instance}}"),),
            Unit.COUNT,
            alerts=("QonduitNoLeader", "QonduitTwoLeaders"),
        ),
        Panel(
            "Terms and takeovers",
            "The term in force, and how often the lead changed.",
            (
                Query("max(qonduit_scheduler_term)", "term"),
                Query("sum(qonduit_scheduler_takeovers_total)", "takeovers"),
            ),
            Unit.COUNT,
        ),
    ),
)

_HEALTH: Final = Row(
    "Workers' health",
    (
        Panel(
            "Workers",
            "Live workers.",
            (Query("leader:qonduit_scheduler_workers:sum", "{{state}}"),),
            Unit.COUNT,
            Kind.STACKED,
            alerts=("QonduitNoWorkers",),
        ),
        Panel(
            "Lost",
            "Attempts and executors reported as lost, workers that were cut off and ended all they ran, and shapes "
            "that could never fit.",
            (
                Query("sum(increase(qonduit_scheduler_attempts_lost_total[$__rate_interval]))", "attempts"),
                Query("sum(increase(qonduit_scheduler_executors_lost_total[$__rate_interval]))", "executors"),
                Query(f"sum(increase(qonduit_worker_fencings_total{_ONE}[$__rate_interval]))", "workers cut off"),
                Query("sum(increase(qonduit_scheduler_refusals_total[$__rate_interval]))", "shapes refused"),
            ),
            Unit.COUNT,
            thresholds=never(),
            alerts=("QonduitWorkerLost",),
        ),
        Panel(
            "Sandboxes",
            "Workers by the tier of their sandbox: A is the strongest, C is none.",
            (Query(f"sum by (tier) (qonduit_worker_sandbox_tier{_ONE})", "tier {{tier}}"),),
            Unit.COUNT,
            Kind.NUMBER,
        ),
        Panel(
            "Sandboxes made",
            "A second.",
            (Query(f"sum by (kind) (rate(qonduit_worker_forks_total{_ONE}[$__rate_interval]))", "{{kind}}"),),
            Unit.PER_SECOND,
        ),
        Panel(
            "Bytes moved",
            "Values and artifacts by their way, and what programs printed.",
            (
                Query(f"sum by (way) (rate(qonduit_worker_blob_bytes_total{_ONE}[$__rate_interval]))", "{{way}}"),
                Query(f"sum(rate(qonduit_worker_log_bytes_total{_ONE}[$__rate_interval]))", "logs"),
            ),
            Unit.BYTES_PER_SECOND,
        ),
        Panel(
            "Events not yet confirmed",
            "What a worker has to tell and RabbitMQ has not taken; it stays at 0 while they understand each other.",
            (Query(f"qonduit_worker_events_waiting{_ONE}", "{{instance}}"),),
            Unit.COUNT,
            thresholds=(Threshold(100, Colour.DOUBTFUL),),
        ),
        Panel(
            "Functions' environments",
            "Disk that they take on each worker.",
            (Query(f"qonduit_worker_layer_bytes{_ONE}", "{{instance}}"),),
            Unit.BYTES,
            width=12,
        ),
        Panel(
            "Building environments",
            "95 of 100 builds of what functions depend on take less.",
            (
                Query(
                    "histogram_quantile(0.95, sum by (le) "
                    f"(rate(qonduit_worker_layer_build_seconds_bucket{_ONE}[$__rate_interval])))",
                    "p95",
                    empty="no function with dependencies has run yet.",
                ),
            ),
            Unit.SECONDS,
            width=12,
        ),
    ),
)

CLUSTER: Final = Board(
    "qonduit-cluster",
    "Qonduit: cluster packing",
    "How full each worker is, what is free, what waits, and how well it is packed.",
    (_WORKERS, _ROOM, _SCHEDULING, _HEALTH),
    (Variable("worker", "Worker", "qonduit_worker_capacity_cpu_cores", "instance"),),
)
