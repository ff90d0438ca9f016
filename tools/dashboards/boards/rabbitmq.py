"""RabbitMQ: as it sees itself, and as the services see it."""

from __future__ import annotations

from typing import Final

from dashboards.panels import Board, Kind, Panel, Query, Row, Unit, never, rising

_HEALTH: Final = Row(
    "RabbitMQ's health",
    (
        Panel(
            "Alarms",
            "Memory or disk ran short: RabbitMQ takes no messages until it has room.",
            (
                Query("max(rabbitmq_alarms_memory_used_watermark)", "memory"),
                Query("max(rabbitmq_alarms_free_disk_space_watermark)", "disk"),
            ),
            Unit.COUNT,
            Kind.NUMBER,
            never(),
            alerts=("QonduitRabbitmqAlarm",),
        ),
        Panel(
            "Memory",
            "What it has, and from where on it takes no messages.",
            (
                Query("rabbitmq_process_resident_memory_bytes", "{{instance}}"),
                Query("rabbitmq_resident_memory_limit_bytes", "{{instance}} limit"),
            ),
            Unit.BYTES,
        ),
        Panel(
            "Free disk",
            "What is free, and below which it takes no messages.",
            (
                Query("rabbitmq_disk_space_available_bytes", "{{instance}}"),
                Query("rabbitmq_disk_space_available_limit_bytes", "{{instance}} limit"),
            ),
            Unit.BYTES,
        ),
        Panel(
            "Open files",
            "Share of the files that it may have open.",
            (Query("rabbitmq_process_open_fds / rabbitmq_process_max_fds", "{{instance}}"),),
            Unit.RATIO,
            thresholds=rising(0.7, 0.9),
        ),
        Panel(
            "What is connected",
            "A service has two connections. Numbers that only grow are a leak.",
            (
                Query("sum(rabbitmq_connections)", "connections"),
                Query("sum(rabbitmq_channels)", "channels"),
                Query("sum(rabbitmq_consumers)", "consumers"),
                Query("sum(rabbitmq_queues)", "queues"),
            ),
            Unit.COUNT,
        ),
        Panel(
            "Quorum queues' disk",
            "How long an entry takes to be committed.",
            (Query("rabbitmq_raft_entry_commit_latency_seconds", "{{instance}}"),),
            Unit.SECONDS,
        ),
    ),
)

_QUEUES: Final = Row(
    "Queues",
    (
        Panel(
            "Inboxes",
            "Messages in the inboxes of services. What stays there has a service that does not take it.",
            (Query("sum by (queue) (rabbitmq_detailed_queue_messages)", "{{queue}}"),),
            Unit.COUNT,
            alerts=("QonduitOutboxStuck", "QonduitDeadLetters"),
        ),
        Panel(
            "All queues",
            "Tasks that wait for executors are here too.",
            (
                Query("sum(rabbitmq_queue_messages_ready)", "ready"),
                Query("sum(rabbitmq_queue_messages_unacked)", "not acknowledged"),
            ),
            Unit.COUNT,
            Kind.STACKED,
        ),
        Panel(
            "Through RabbitMQ",
            "Messages a second.",
            (
                Query("sum(rate(rabbitmq_global_messages_received_total[$__rate_interval]))", "received"),
                Query("sum(rate(rabbitmq_global_messages_confirmed_total[$__rate_interval]))", "confirmed"),
                Query("sum(rate(rabbitmq_global_messages_delivered_total[$__rate_interval]))", "delivered"),
                Query("sum(rate(rabbitmq_global_messages_acknowledged_total[$__rate_interval]))", "acknowledged"),
            ),
            Unit.PER_SECOND,
        ),
    ),
)

_BUS: Final = Row(
    "As services see it",
    (
        Panel(
            "Sent",
            "Messages sent a second, by service, and those that are confirmed.",
            (
                Query("sum by (job) (rate(qonduit_bus_published_total[$__rate_interval]))", "{{job}}"),
                Query("sum(rate(qonduit_bus_confirmed_total[$__rate_interval]))", "confirmed"),
            ),
            Unit.PER_SECOND,
        ),
        Panel(
            "Taken",
            "Deliveries a second, by kind of queue; beside them, what came again.",
            (
                Query("sum by (queue) (rate(qonduit_bus_delivered_total[$__rate_interval]))", "{{queue}}"),
                Query(
                    "sum by (queue) (rate(qonduit_bus_redelivered_total[$__rate_interval]))",
                    "{{queue}} again",
                    empty="nothing came again.",
                ),
            ),
            Unit.PER_SECOND,
        ),
        Panel(
            "From sending to the confirm",
            "95 of 100 messages take less, by service.",
            (
                Query(
                    "histogram_quantile(0.95, "
                    "sum by (le, job) (rate(qonduit_bus_publish_seconds_bucket[$__rate_interval])))",
                    "{{job}}",
                ),
            ),
            Unit.SECONDS,
            thresholds=rising(0.1, 1),
        ),
        Panel(
            "Waiting for a confirm",
            "Messages, by service.",
            (Query("sum by (job) (qonduit_bus_unconfirmed)", "{{job}}"),),
            Unit.COUNT,
        ),
        Panel(
            "Blocked",
            "1 while RabbitMQ makes a service wait before it may send.",
            (Query("max by (job) (qonduit_bus_blocked)", "{{job}}"),),
            Unit.COUNT,
            thresholds=never(),
            alerts=("QonduitRabbitmqAlarm",),
        ),
        Panel(
            "Connections",
            "Connections made, and lost and made again.",
            (
                Query("sum by (job) (increase(qonduit_bus_connects_total[$__rate_interval]))", "{{job}} made"),
                Query(
                    "sum by (job) (increase(qonduit_bus_reconnects_total[$__rate_interval]))",
                    "{{job}} again",
                    empty="no connection was lost.",
                ),
            ),
            Unit.COUNT,
        ),
        Panel(
            "Outbox",
            "Messages that the gateway has written and RabbitMQ has not confirmed.",
            (Query("sum(qonduit_outbox_rows)", "messages"),),
            Unit.COUNT,
            alerts=("QonduitOutboxStuck",),
        ),
        Panel(
            "Not taken",
            "Messages that no queue would take, or that RabbitMQ refused for now. A few come back as services start.",
            (
                Query("sum by (job) (increase(qonduit_bus_returned_total[$__rate_interval]))", "{{job}} returned"),
                Query("sum by (job) (increase(qonduit_bus_refused_total[$__rate_interval]))", "{{job}} refused"),
            ),
            Unit.COUNT,
        ),
        Panel(
            "Handlers that failed",
            "What raised is tried again in place; what fails ten times becomes a dead letter.",
            (
                Query(
                    "sum by (job, queue) (increase(qonduit_bus_handler_errors_total[$__rate_interval]))",
                    "{{job}} {{queue}}",
                    empty="no handler has failed.",
                ),
                Query(
                    "sum by (job, queue) (increase(qonduit_bus_dead_letters_total[$__rate_interval]))",
                    "{{job}} {{queue}}: dead letters",
                    empty="nothing became a dead letter.",
                ),
            ),
            Unit.COUNT,
            thresholds=never(),
            alerts=("QonduitDeadLetters",),
        ),
    ),
)

RABBITMQ: Final = Board(
    "qonduit-rabbitmq",
    "Qonduit: RabbitMQ",
    "RabbitMQ as it sees itself, and as the services see it.",
    (_HEALTH, _QUEUES, _BUS),
)
