"""Stacks other than the default one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from stack_control import Stack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qonduit import Job, ServerlessClient


@pytest.fixture
def stack(bus_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    options = ("--amqp-url", bus_url, "--workers", "2")
    running = Stack(tmp_path_factory.mktemp("two-workers"), options, {"QONDUIT_WORKER_CPU": "9"})
    running.up()
    yield running
    running.down()


@pytest.fixture
def client(stack: Stack) -> ServerlessClient:
    return stack.client()


def test_tasks_run_on_two_workers_over_a_given_rabbitmq(stack: Stack, submit: Callable[..., Job]) -> None:
    """Each task of 8 CPUs needs a worker of its own, for each worker offers 9."""
    text = (
        "import time\n"
        "from qiskit_serverless import distribute_task, get, put, save_result\n"
        "import numpy as np\n"
        "shared = put(np.ones(300_000))\n"
        "@distribute_task(target={'cpu': 8, 'mem': 2**28})\n"
        "def meet(values):\n"
        "    start = time.time()\n"
        "    time.sleep(1.5)\n"
        "    return start, time.time(), float(values.sum())\n"
        "first, second = get([meet(shared), meet(shared)])\n"
        "save_result({'overlap': min(first[1], second[1]) - max(first[0], second[0]), 'sums': [first[2], second[2]]})\n"
    )
    assert "rabbitmq" not in stack.services
    result = submit(text).result(timeout=60)
    assert result["sums"] == [300_000, 300_000]
    assert result["overlap"] > 0, "neither worker has room for both, so they ran on two"
    workers = stack.qonduit("workers", "--json").stdout
    assert workers.count('"worker_id"') == 2
