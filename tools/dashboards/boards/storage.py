"""Storage: room, what moves, and what was refused."""

from __future__ import annotations

from typing import Final

from dashboards.panels import Board, Colour, Kind, Panel, Query, Row, Threshold, Unit

_MINE: Final = '{job="storage"}'

_DISK: Final = Row(
    "Disk",
    (
        Panel(
            "Free",
            "Share of the disk that is free.",
            (Query("instance:qonduit_storage_free:ratio", "{{instance}}"),),
            Unit.RATIO,
            Kind.NUMBER,
            (Threshold(0.1, Colour.DOUBTFUL), Threshold(0.2, Colour.WELL)),
            low_is_bad=True,
            alerts=("QonduitStorageFull",),
        ),
        Panel(
            "Room",
            "Free space, the size of the disk, and what is promised to running uploads.",
            (
                Query("qonduit_storage_free_bytes", "{{instance}} free"),
                Query("qonduit_storage_size_bytes", "{{instance}} size"),
                Query("qonduit_storage_reserved_bytes", "{{instance}} promised"),
            ),
            Unit.BYTES,
            alerts=("QonduitStorageFull",),
        ),
        Panel(
            "Full in",
            "When the disk will be full, if it fills as it did in the last hour; nothing while it doesn't fill.",
            (
                Query(
                    "qonduit_storage_free_bytes / (-deriv(qonduit_storage_free_bytes[1h]) > 0)",
                    "{{instance}}",
                    empty="the disk does not fill.",
                ),
            ),
            Unit.SECONDS,
        ),
    ),
)

_MOVING: Final = Row(
    "What moves",
    (
        Panel(
            "Stored",
            "Bytes of finished uploads and of logs.",
            (Query("sum by (kind) (rate(qonduit_storage_stored_bytes_total[$__rate_interval]))", "{{kind}}"),),
            Unit.BYTES_PER_SECOND,
            Kind.STACKED,
        ),
        Panel(
            "Served",
            "Bytes sent to readers.",
            (Query("sum by (kind) (rate(qonduit_storage_served_bytes_total[$__rate_interval]))", "{{kind}}"),),
            Unit.BYTES_PER_SECOND,
            Kind.STACKED,
        ),
        Panel(
            "Refused",
            "Calls refused, by reason. INVALID_FILE_* are users' files that break the rules.",
            (
                Query(
                    "sum by (reason) (increase(qonduit_storage_refusals_total[$__rate_interval]))",
                    "{{reason}}",
                    empty="nothing has been refused.",
                ),
            ),
            Unit.COUNT,
        ),
    ),
)

_CALLS: Final = Row(
    "Calls",
    (
        Panel(
            "Calls",
            "By method.",
            (Query(f"sum by (method) (rate(qonduit_rpc_calls_total{_MINE}[$__rate_interval]))", "{{method}}"),),
            Unit.PER_SECOND,
            Kind.STACKED,
        ),
        Panel(
            "Answers",
            "By code. INTERNAL and UNAVAILABLE are faults of storage, the others are said to callers.",
            (Query(f"sum by (code) (rate(qonduit_rpc_calls_total{_MINE}[$__rate_interval]))", "{{code}}"),),
            Unit.PER_SECOND,
            Kind.STACKED,
            alerts=("QonduitRpcFaults",),
        ),
        Panel(
            "How long calls take",
            "95 of 100 take less, by method; those that carry bytes take as long as those do. A log's last as long as "
            "its program, and are left out.",
            (
                Query(
                    "histogram_quantile(0.95, sum by (le, method) "
                    '(rate(qonduit_rpc_seconds_bucket{job="storage", method!~".+/AppendLog"}[$__rate_interval])))',
                    "{{method}}",
                ),
            ),
            Unit.SECONDS,
            alerts=("QonduitRpcSlow",),
        ),
    ),
)

STORAGE: Final = Board(
    "qonduit-storage",
    "Qonduit: storage",
    "Room, what moves, and what was refused.",
    (_DISK, _MOVING, _CALLS),
)
