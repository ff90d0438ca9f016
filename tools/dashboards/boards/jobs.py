"""Jobs, their stages and their tasks: what came, how long it waited, what it used, how it ended."""

from __future__ import annotations

from typing import Final

from dashboards.panels import Board, Kind, Panel, Query, Row, Unit, buckets, quantiles

_IN_AND_OUT: Final = Row(
    "In and out",
    (
        Panel(
            "Jobs in each state",
            "Jobs that are not over.",
            (Query('sum by (state) (qonduit_jobs{state!~"DONE|ERROR|CANCELED"})', "{{state}}"),),
            Unit.COUNT,
            Kind.STACKED,
        ),
        Panel(
            "Jobs that ended",
            "Each reason of its own; NONE is success. PROGRAM_ERROR and OUT_OF_MEMORY are the programs' own.",
            (
                Query(
                    "sum by (state, reason) (increase(qonduit_jobs_finished_total[$__rate_interval]))",
                    "{{state}} {{reason}}",
                ),
            ),
            Unit.COUNT,
            Kind.STACKED,
        ),
        Panel(
            "Tasks that ended",
            "A second, by how they ended.",
            (
                Query(
                    'sum by (state) (rate(qonduit_tasks_finished_total{state!~"QUEUED|RUNNING|WAITING"}'
                    "[$__rate_interval]))",
                    "{{state}}",
                ),
            ),
            Unit.PER_SECOND,
            Kind.STACKED,
        ),
    ),
)

_USE: Final = Row(
    "What each stage uses",
    (
        Panel(
            "CPU by stage",
            "Cores that drivers and their tasks keep busy, as it happens.",
            (Query("sum by (stage) (rate(qonduit_worker_stage_cpu_seconds_total[$__rate_interval]))", "{{stage}}"),),
            Unit.CORES,
            Kind.STACKED,
            width=12,
        ),
        Panel(
            "QPU by stage",
            "QPU seconds booked a second: how many QPUs are busy. A session's are booked when they are final.",
            (Query("sum by (stage) (rate(qonduit_job_stage_qpu_seconds_total[$__rate_interval]))", "{{stage}}"),),
            Unit.DEVICES,
            Kind.STACKED,
            width=12,
        ),
        Panel(
            "CPU seconds on the bill",
            "CPU seconds of jobs that ended.",
            (Query("sum by (stage) (increase(qonduit_job_stage_cpu_seconds_total[$__rate_interval]))", "{{stage}}"),),
            Unit.SECONDS,
            Kind.STACKED,
            width=12,
        ),
        Panel(
            "Seconds on the clock",
            "How long jobs that ended were in each stage.",
            (Query("sum by (stage) (increase(qonduit_job_stage_wall_seconds_total[$__rate_interval]))", "{{stage}}"),),
            Unit.SECONDS,
            Kind.STACKED,
            width=12,
        ),
    ),
)

_WAITS: Final = Row(
    "Waiting",
    (
        Panel(
            "From the queue to a worker",
            "Jobs by how long they waited for their place.",
            buckets("qonduit_job_queue_wait_seconds"),
            Unit.SECONDS,
            Kind.BUCKETS,
        ),
        Panel(
            "From submission to the program's first line",
            "Jobs by how long their users waited for them to begin.",
            buckets("qonduit_job_start_latency_seconds"),
            Unit.SECONDS,
            Kind.BUCKETS,
        ),
        Panel(
            "From wanting a lease to its grant",
            "Drivers and executors, as the scheduler sees it.",
            quantiles("qonduit_scheduler_wait_seconds", "kind", of=(0.5, 0.95)),
            Unit.SECONDS,
            alerts=("QonduitLongWait",),
        ),
        Panel(
            "Starting a program",
            "Preparing a driver (artifact, arguments, files), and forking a sandbox. Warm, both take milliseconds.",
            (
                *quantiles("qonduit_worker_prepare_seconds", of=(0.95,), called="preparing "),
                *quantiles("qonduit_worker_fork_seconds", of=(0.95,), called="forking "),
            ),
            Unit.SECONDS,
        ),
        Panel(
            "Tasks that wait",
            "Tasks by how long they waited for the start of their last attempt.",
            buckets("qonduit_task_queue_seconds"),
            Unit.SECONDS,
            Kind.BUCKETS,
        ),
        Panel(
            "Tasks that run",
            "Tasks by how long their last attempt ran.",
            buckets("qonduit_task_run_seconds"),
            Unit.SECONDS,
            Kind.BUCKETS,
        ),
    ),
)

_FAULTS: Final = Row(
    "What went wrong",
    (
        Panel(
            "Programs by how they ended",
            "As their workers saw it; NONE is success.",
            (
                Query(
                    "sum by (reason) (increase(qonduit_worker_drivers_ended_total[$__rate_interval]))",
                    "{{reason}}",
                ),
            ),
            Unit.COUNT,
            Kind.STACKED,
        ),
        Panel(
            "Over their memory",
            "Drivers and executors that used more memory than they had asked for.",
            (
                Query(
                    "sum by (kind) (increase(qonduit_worker_oom_kills_total[$__rate_interval]))",
                    "{{kind}}",
                    empty="nothing has used too much yet.",
                ),
            ),
            Unit.COUNT,
        ),
        Panel(
            "Lost and tried again",
            "Jobs queued again because their worker was lost, and executors lost under a task.",
            (
                Query("sum(increase(qonduit_jobs_requeued_total[$__rate_interval]))", "jobs"),
                Query("sum(increase(qonduit_task_losses_total[$__rate_interval]))", "executors under tasks"),
            ),
            Unit.COUNT,
            alerts=("QonduitWorkerLost",),
        ),
        Panel(
            "Events of jobs that came late",
            "Stale ones are of attempts that are over and were refused: each is a worker that had been given up.",
            (
                Query("sum(increase(qonduit_job_events_stale_total[$__rate_interval]))", "stale"),
                Query("sum(increase(qonduit_job_events_late_total[$__rate_interval]))", "overtaken"),
            ),
            Unit.COUNT,
            width=12,
        ),
        Panel(
            "Functions' environments",
            "Builds of what functions depend on, by outcome.",
            (
                Query(
                    "sum by (outcome) (increase(qonduit_worker_layer_builds_total[$__rate_interval]))",
                    "{{outcome}}",
                    empty="no function with dependencies has run yet.",
                ),
            ),
            Unit.COUNT,
            width=12,
        ),
    ),
)

JOBS: Final = Board(
    "qonduit-jobs",
    "Qonduit: jobs and stages",
    "What came, how long it waited, what each stage used, and how it ended.",
    (_IN_AND_OUT, _USE, _WAITS, _FAULTS),
)
