"""Stacks other than the default one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from stack_control import LEAN, TOLD, Stack, tell, until_logged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from qonduit import Job, ServerlessClient


@pytest.fixture
def stack(bus_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    options = ("--amqp-url", bus_url, "--workers", "2")
    running = Stack(tmp_path_factory.mktemp("two-workers"), options, LEAN | {"QONDUIT_WORKER_CPU": "9"})
    running.up()
    yield running
    running.down()


@pytest.fixture
def client(stack: Stack) -> ServerlessClient:
    return stack.client()


def test_tasks_run_on_two_workers_over_a_given_rabbitmq(
    stack: Stack, client: ServerlessClient, submit: Callable[..., Job], tmp_path: Path
) -> None:
    """Each task of 8 CPUs needs a worker of its own, for each worker offers 9; neither ends before the other began."""
    text = TOLD + (
        "from qiskit_serverless import distribute_task, put, save_result\n"
        "from qonduit import cancel, wait\n"
        "import numpy as np\n"
        "shared = put(np.ones(300_000))\n"
        "@distribute_task(target={'cpu': 8, 'mem': 2**28})\n"
        "def meet(values):\n"
        "    print(f'sum {values.sum():.0f}')\n"
        "    time.sleep(600)\n"
        "references = [meet(shared) for _ in range(2)]\n"
        "wait(references, timeout=0)\n"
        "told('both.tar')\n"
        "cancel(references)\n"
        "save_result('met')\n"
    )
    assert "rabbitmq" not in stack.services
    job = submit(text)
    until_logged(job, *["sum 300000\n"] * 2)
    tell(client, tmp_path, "both.tar")
    assert job.result(timeout=300) == "met"
    assert len({task.worker for task in job.tasks()}) == 2, "neither worker has room for both, so they ran on two"
    workers = stack.qonduit("workers", "--json").stdout
    assert workers.count('"worker_id"') == 2
