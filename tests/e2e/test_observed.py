"""Prometheus beside the stack, as compose.observability.yaml adds it, reads every service and answers the dashboards.

Grafana comes from no package: its files and queries are tested in tests/observability, without it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from dashboards import stored
from dashboards.checking import Span, faults_of_queries
from dashboards.prometheus import Prometheus

if TYPE_CHECKING:
    from collections.abc import Callable

    from compose_control import Deployment
    from qonduit import Job

INSTANCES = {"gateway", "scheduler", "storage", "qpu-broker", "worker-1", "worker-2", "rabbitmq"}
TARGETS = len(INSTANCES) + 1
"""RabbitMQ is read twice: of its queues only some."""
PROGRAM = """\
from qiskit_serverless import distribute_task, get, save_result

@distribute_task(target={"cpu": 1, "mem": 2**28})
def square(n):
    return n * n

save_result(sum(get([square(n) for n in range(10)])))
"""
SEEN_S = 300.0


@pytest.fixture
def prometheus(deployment: Deployment) -> Prometheus:
    deployment.up("prometheus", options=("--no-deps",))
    (network,) = deployment.inspect("prometheus")["NetworkSettings"]["Networks"].values()
    return Prometheus(f"http://{network['IPAddress']}:9090")


def seen(prometheus: Prometheus, expr: str) -> None:
    """Return once an expression finds something."""
    deadline = time.monotonic() + SEEN_S
    while not prometheus.now(expr):
        assert time.monotonic() < deadline, expr
        time.sleep(0.2)


def test_all_services_are_read_and_all_panels_answered(
    prometheus: Prometheus, deployment: Deployment, submit: Callable[..., Job]
) -> None:
    begin = time.time()
    assert submit(PROGRAM).result(timeout=600) == sum(n * n for n in range(10))
    seen(prometheus, f"count(up == 1) == {TARGETS}")
    assert {one.labels["instance"] for one in prometheus.now("up")} == INSTANCES
    seen(prometheus, 'sum(qonduit_tasks_finished_total{state="DONE"}) > 0')
    queries = stored.stored_queries()
    all_may = {(query.board, query.panel, query.letter): "whatever happens to have happened" for query in queries}
    variables = {"worker": ".+", "backend": ".+"}
    assert faults_of_queries(prometheus, queries, Span(begin, time.time()), all_may, variables) == []
    assert not deployment.inspect("prometheus")["NetworkSettings"]["Ports"].get("9090/tcp"), "only Grafana asks it"
