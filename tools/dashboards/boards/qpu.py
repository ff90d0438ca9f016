"""QPUs: what waits for them, what it costs, and how providers answer."""

from __future__ import annotations

from typing import Final

from dashboards.panels import Board, Colour, Kind, Panel, Query, Row, Threshold, Unit, Variable, rising

_ONE: Final = '{backend=~"$backend"}'
_NO_IBM: Final = "only an account at a provider has it."

_JOBS: Final = Row(
    "QPU jobs",
    (
        Panel(
            "Queue",
            "QPU jobs that wait, by device.",
            (Query(f"sum by (backend) (qonduit_qpu_queue_length{_ONE})", "{{backend}}"),),
            Unit.COUNT,
            Kind.STACKED,
            alerts=("QonduitQpuQueueStuck",),
        ),
        Panel(
            "Wait",
            "From submission to the device.",
            tuple(
                Query(
                    f"histogram_quantile({q}, sum by (le) "
                    f"(rate(qonduit_qpu_wait_seconds_bucket{_ONE}[$__rate_interval])))",
                    f"p{q * 100:g}",
                )
                for q in (0.5, 0.95)
            ),
            Unit.SECONDS,
        ),
        Panel(
            "In and out",
            "QPU jobs taken into the ledger, and how they ended.",
            (
                Query(f"sum by (program) (rate(qonduit_qpu_submissions_total{_ONE}[$__rate_interval]))", "{{program}}"),
                Query(f"sum by (state) (rate(qonduit_qpu_jobs_finished_total{_ONE}[$__rate_interval]))", "{{state}}"),
            ),
            Unit.PER_SECOND,
        ),
    ),
)

_MONEY: Final = Row(
    "Seconds and sessions",
    (
        Panel(
            "QPU seconds by device",
            "QPU seconds booked a second: how many QPUs work for us.",
            (Query(f"sum by (backend) (rate(qonduit_qpu_seconds_total{_ONE}[$__rate_interval]))", "{{backend}}"),),
            Unit.DEVICES,
            Kind.STACKED,
        ),
        Panel(
            "QPU seconds of all time",
            "As the ledger has them, by how they were booked: a job's own, or a session's.",
            (Query(f"sum by (mode) (qonduit_qpu_seconds_total{_ONE})", "{{mode}}"),),
            Unit.SECONDS,
            Kind.STACKED,
        ),
        Panel(
            "Two books",
            "QPU seconds of six hours, as the QPU broker's ledger has them and as the gateway charged them. They are "
            "the same, but for minutes.",
            (
                Query("ledger:qonduit_qpu_seconds:increase6h", "ledger"),
                Query("gateway:qonduit_job_stage_qpu_seconds:increase6h", "charged"),
            ),
            Unit.SECONDS,
            alerts=("QonduitQpuBooksDiffer",),
        ),
        Panel(
            "Open sessions",
            "Sessions and batches that programs have open, by device.",
            (
                Query(
                    f"sum by (backend, mode) (qonduit_qpu_open_sessions{_ONE})",
                    "{{backend}} {{mode}}",
                    empty="no program has a session open.",
                ),
            ),
            Unit.COUNT,
            width=12,
        ),
        Panel(
            "Sessions open at providers",
            "Dedicated ones cost by the clock, used or not.",
            (
                Query(
                    f"sum by (backend, mode) (qonduit_qpu_open_upstream_sessions{_ONE})",
                    "{{backend}} {{mode}}",
                    empty="no session is open at a provider.",
                ),
            ),
            Unit.COUNT,
            alerts=("QonduitQpuSessionIdle",),
            width=12,
        ),
    ),
)

_REQUESTS: Final = Row(
    "Requests",
    (
        Panel(
            "Accounts",
            "1 while all instances of an account answer and take its credentials.",
            (Query("min by (account) (qonduit_qpu_account_ok)", "{{account}}"),),
            Unit.COUNT,
            Kind.NUMBER,
            (Threshold(1, Colour.WELL),),
            low_is_bad=True,
            alerts=("QonduitQpuAccountFails",),
        ),
        Panel(
            "Requests of programs",
            "What programs' clients ask, by the status of the answer.",
            (
                Query(
                    "sum by (method, status) (rate(qonduit_qpu_requests_total[$__rate_interval]))",
                    "{{method}} {{status}}",
                ),
            ),
            Unit.PER_SECOND,
            Kind.STACKED,
        ),
        Panel(
            "Requests to providers",
            "By what became of them.",
            (
                Query(
                    "sum by (account, outcome) (rate(qonduit_qpu_upstream_requests_total[$__rate_interval]))",
                    "{{account}} {{outcome}}",
                    empty=_NO_IBM,
                ),
            ),
            Unit.PER_SECOND,
            Kind.STACKED,
            alerts=("QonduitQpuFaults",),
        ),
        Panel(
            "Requests to providers that failed",
            "Share that failed, was refused for its credentials, or came too often.",
            (
                Query(
                    "sum by (account) (rate(qonduit_qpu_upstream_requests_total"
                    '{outcome=~"fault|refused|throttled"}[$__rate_interval])) / '
                    "sum by (account) (rate(qonduit_qpu_upstream_requests_total[$__rate_interval]))",
                    "{{account}}",
                    empty="no request has failed.",
                ),
            ),
            Unit.RATIO,
            thresholds=rising(0.05, 0.2),
            alerts=("QonduitQpuFaults",),
            width=12,
        ),
        Panel(
            "Tried again",
            "Requests and submissions that had to be tried again.",
            (
                Query(
                    "sum by (account, what) (increase(qonduit_qpu_upstream_retries_total[$__rate_interval]))",
                    "{{account}} {{what}}",
                    empty="nothing had to be tried again.",
                ),
            ),
            Unit.COUNT,
            width=12,
        ),
    ),
)

QPU: Final = Board(
    "qonduit-qpu",
    "Qonduit: QPUs",
    "What waits for QPUs, what it costs, and how providers answer.",
    (_JOBS, _MONEY, _REQUESTS),
    (Variable("backend", "Device", "qonduit_qpu_queue_length", "backend"),),
)
