"""The first look: is everything well, for users and for those who pay?"""

from __future__ import annotations

from typing import Final

from dashboards.panels import Board, Colour, Kind, Panel, Query, Row, Threshold, Unit, never, quantiles, rising

_OURS: Final = '{job=~"gateway|scheduler|storage|worker|qpu-broker|rabbitmq.*"}'
"""Others may share the Prometheus."""

_NOW: Final = Row(
    "Now",
    (
        Panel(
            "Alerts",
            "Alerts that fire.",
            (Query('sum(ALERTS{alertstate="firing", alertname=~"Qonduit.+"}) or vector(0)', "firing"),),
            Unit.COUNT,
            Kind.NUMBER,
            never(),
            width=4,
            height=4,
        ),
        Panel(
            "Jobs that wait",
            "Jobs that have no place yet.",
            (Query('sum(qonduit_jobs{state="QUEUED"})', "queued"),),
            Unit.COUNT,
            Kind.NUMBER,
            alerts=("QonduitNothingStarts",),
            width=4,
            height=4,
        ),
        Panel(
            "Jobs that run",
            "Jobs that have a place.",
            (Query('sum(qonduit_jobs{state=~"INITIALIZING|RUNNING|CANCELING"})', "running"),),
            Unit.COUNT,
            Kind.NUMBER,
            width=4,
            height=4,
        ),
        Panel(
            "Longest wait",
            "How long the most urgent job or executor of any shape has waited for room.",
            (Query("leader:qonduit_scheduler_oldest_waiting_seconds:max", "waits"),),
            Unit.SECONDS,
            Kind.NUMBER,
            rising(600, 1800),
            alerts=("QonduitLongWait",),
            width=4,
            height=4,
        ),
        Panel(
            "Workers",
            "Live workers that take work.",
            (Query('leader:qonduit_scheduler_workers:sum{state="ready"}', "ready"),),
            Unit.COUNT,
            Kind.NUMBER,
            (Threshold(1, Colour.WELL),),
            low_is_bad=True,
            alerts=("QonduitNoWorkers", "QonduitWorkerLost"),
            width=4,
            height=4,
        ),
        Panel(
            "Targets",
            "What Prometheus reaches of what it should.",
            (Query(f"sum(up{_OURS}) / count(up{_OURS})", "reached"),),
            Unit.RATIO,
            Kind.NUMBER,
            (Threshold(1, Colour.WELL),),
            low_is_bad=True,
            alerts=("QonduitTargetDown", "QonduitGatewayDown"),
            width=4,
            height=4,
        ),
    ),
)

_TRAFFIC: Final = Row(
    "Traffic and errors",
    (
        Panel(
            "Jobs in and out",
            "Jobs accepted and jobs ended, a second.",
            (
                Query("sum(rate(qonduit_jobs_submitted_total[$__rate_interval]))", "accepted"),
                Query("sum by (state) (rate(qonduit_jobs_finished_total[$__rate_interval]))", "{{state}}"),
            ),
            Unit.PER_SECOND,
        ),
        Panel(
            "Calls",
            "RPCs that ended, a second, by the service that answered.",
            (Query("sum by (job) (rate(qonduit_rpc_calls_total[$__rate_interval]))", "{{job}}"),),
            Unit.PER_SECOND,
        ),
        Panel(
            "Calls that failed through our fault",
            "Share of RPCs that ended with INTERNAL, UNKNOWN, UNAVAILABLE, DATA_LOSS or DEADLINE_EXCEEDED.",
            (Query("job:qonduit_rpc_faults:ratio_rate5m", "{{job}}"),),
            Unit.RATIO,
            Kind.LINES,
            rising(0.01, 0.05),
            alerts=("QonduitRpcFaults",),
        ),
        Panel(
            "Jobs that failed",
            "Jobs that ended with an error, by reason. PROGRAM_ERROR and OUT_OF_MEMORY are the programs' own.",
            (
                Query(
                    'sum by (reason) (increase(qonduit_jobs_finished_total{state="ERROR"}[$__rate_interval]))',
                    "{{reason}}",
                ),
            ),
            Unit.COUNT,
        ),
        Panel(
            "Attempts that were lost",
            "Jobs queued again because their worker was lost.",
            (Query("sum(increase(qonduit_jobs_requeued_total[$__rate_interval]))", "queued again"),),
            Unit.COUNT,
            thresholds=never(),
            alerts=("QonduitWorkerLost",),
        ),
        Panel(
            "Dead letters",
            "Messages that no service could handle.",
            (
                Query(
                    "sum by (queue) (qonduit_dead_letters_total)",
                    "{{queue}}",
                    empty="the counter of a queue begins with its first dead letter.",
                ),
            ),
            Unit.COUNT,
            thresholds=never(),
            alerts=("QonduitDeadLetters",),
        ),
    ),
)

_LATENCY: Final = Row(
    "Latency",
    (
        Panel(
            "From submission to the program's first line",
            "How long users wait for their program to begin, room or not.",
            quantiles("qonduit_job_start_latency_seconds"),
            Unit.SECONDS,
        ),
        Panel(
            "From the queue to a worker",
            "How long jobs wait for their place.",
            quantiles("qonduit_job_queue_wait_seconds"),
            Unit.SECONDS,
        ),
        Panel(
            "How long calls take",
            "95 of 100 RPCs are answered within; what streams for as long as its caller wants is left out.",
            (Query("job:qonduit_rpc_seconds:p95_rate5m", "{{job}}"),),
            Unit.SECONDS,
            thresholds=rising(0.5, 1),
            alerts=("QonduitRpcSlow",),
        ),
    ),
)

_SATURATION: Final = Row(
    "Saturation",
    (
        Panel(
            "What is leased",
            "Share of what the workers offer.",
            (Query("resource:qonduit_leased:ratio", "{{resource}}"),),
            Unit.RATIO,
        ),
        Panel(
            "The gateway's outbox",
            "Age of the oldest message that waits to be sent: 0 while RabbitMQ takes them.",
            (Query("max(qonduit_outbox_oldest_age_seconds)", "oldest"),),
            Unit.SECONDS,
            thresholds=rising(10, 30),
            alerts=("QonduitOutboxStuck",),
        ),
        Panel(
            "Free on storage's disk",
            "Below 10% it is time to act.",
            (Query("instance:qonduit_storage_free:ratio", "{{instance}}"),),
            Unit.RATIO,
            thresholds=(Threshold(0.1, Colour.DOUBTFUL), Threshold(0.2, Colour.WELL)),
            low_is_bad=True,
            alerts=("QonduitStorageFull",),
            maximum=1,
        ),
        Panel(
            "Memory of services",
            "Resident memory of each service's own process, without the programs that run.",
            (Query(f"process_resident_memory_bytes{_OURS}", "{{instance}}"),),
            Unit.BYTES,
            width=12,
        ),
        Panel(
            "CPU of services",
            "CPU of each service's own process, without the programs that run.",
            (Query(f"rate(process_cpu_seconds_total{_OURS}[$__rate_interval])", "{{instance}}"),),
            Unit.CORES,
            width=12,
        ),
    ),
)

OVERVIEW: Final = Board(
    "qonduit-overview",
    "Qonduit: overview",
    "Is everything well? Traffic, errors, latency and saturation.",
    (_NOW, _TRAFFIC, _LATENCY, _SATURATION),
)
