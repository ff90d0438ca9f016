"""`python -m qonduit_worker drain`: what a cluster calls before it takes a worker away."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from qonduit_service_kit.messages import (
    EventKind,
    JobEvent,
    LeaseEnded,
    Reason,
    StopAttempt,
    WorkerDrain,
    WorkerHeartbeat,
)
from scripted_cluster import PATIENCE_S, ScriptedCluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from qonduit_service_kit.testing import PrivateBroker

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def running(broker: PrivateBroker, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ScriptedCluster]:
    async with ScriptedCluster.running(broker.vhost_url("worker-leaving"), tmp_path_factory.mktemp("cluster")) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def cluster(running: ScriptedCluster) -> ScriptedCluster:
    """One that is open and idle, whatever the last test did."""
    for event in [event for event in running.of(JobEvent) if event.kind is EventKind.RUNNING]:
        await running.send(StopAttempt(event.job_id, event.attempt, Reason.CANCELED, 0.0))
    await running.send(WorkerDrain(running.worker_id, draining=False, asked_at=time.time()))
    heard = len(running.of(WorkerHeartbeat))
    await running.until(
        lambda: next(
            (each for each in running.of(WorkerHeartbeat)[heard:] if not each.draining and not each.leases), None
        ),
        "a heartbeat of an idle worker",
    )
    return running


def metrics_port(cluster: ScriptedCluster) -> int:
    return int(json.loads(cluster.worker.ready_file.read_text())["metrics_port"])


async def leaving(cluster: ScriptedCluster, within_s: int, port: int = 0, **others: str) -> asyncio.subprocess.Process:
    """Start the command beside the worker, with its settings or others."""
    port = port or metrics_port(cluster)
    settings = {
        **cluster.worker.settings,
        "METRICS_PORT": str(port),
        "DATA_DIR": str(cluster.folder / "qonduit_worker"),
        **others,
    }
    variables = {f"QONDUIT_WORKER_{name}": value for name, value in settings.items()}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "qonduit_worker",
        "drain",
        str(within_s),
        env={**os.environ, **variables},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def ended(process: asyncio.subprocess.Process) -> tuple[int | None, str]:
    output, _ = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    return process.returncode, output.decode()


async def says_draining(cluster: ScriptedCluster, after: int) -> None:
    """Wait for a heartbeat that says so, after so many others."""
    await cluster.until(
        lambda: next((beat for beat in cluster.of(WorkerHeartbeat)[after:] if beat.draining), None),
        "a heartbeat of a draining worker",
    )


async def test_it_returns_once_the_last_program_has_ended(cluster: ScriptedCluster) -> None:
    job = await cluster.run(
        "import os, time\nprint('begun', flush=True)\nwhile not os.path.exists('go'): time.sleep(0.01)\n"
    )
    await job.logged("begun")
    heard = len(cluster.of(WorkerHeartbeat))
    process = await leaving(cluster, 60)
    await says_draining(cluster, heard)
    assert process.returncode is None
    cluster.let_go()
    code, output = await ended(process)
    assert code == 0, output
    assert job.lease_id in [end.lease_id for end in cluster.of(LeaseEnded)]


async def test_it_gives_up_in_time_and_says_what_that_means(cluster: ScriptedCluster) -> None:
    job = await cluster.run("import time\nprint('begun', flush=True)\ntime.sleep(600)\n")
    await job.logged("begun")
    code, output = await ended(await leaving(cluster, 4))
    assert code == 1
    assert "run again elsewhere" in output
    assert job.lease_id not in [end.lease_id for end in cluster.of(LeaseEnded)]


async def test_a_worker_that_has_ended_is_not_waited_for(cluster: ScriptedCluster) -> None:
    port = metrics_port(cluster)
    cluster.worker.stop()
    code, output = await ended(await leaving(cluster, 60, port))
    await cluster.worker.start()
    assert code == 0, output


async def test_a_worker_that_was_never_there_is_not_waited_for(cluster: ScriptedCluster) -> None:
    code, output = await ended(await leaving(cluster, 60, WORKER_ID="nobody"))
    assert code == 0
    assert "no inbox" in output


async def test_wrong_usage_is_told() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "qonduit_worker", "drain", "soon", stderr=asyncio.subprocess.PIPE
    )
    _, errors = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert process.returncode == 1
    assert "drain SECONDS" in errors.decode()
