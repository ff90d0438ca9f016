"""`python -m qonduit_worker drain`: what a cluster calls before it takes a worker away."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from qonduit_service_kit.messages import LeaseEnded, WorkerHeartbeat
from scripted_cluster import PATIENCE_S, ScriptedCluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from qonduit_service_kit.testing import PrivateBroker

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def cluster(broker: PrivateBroker, tmp_path: Path) -> AsyncIterator[ScriptedCluster]:
    async with ScriptedCluster.running(broker.vhost_url(tmp_path.name[:60]), tmp_path) as made:
        yield made


def metrics_port(cluster: ScriptedCluster) -> int:
    return int(json.loads(cluster.worker.ready_file.read_text())["metrics_port"])


async def leaving(cluster: ScriptedCluster, within_s: int, port: int = 0) -> asyncio.subprocess.Process:
    """Start the command beside the worker, with its settings."""
    port = port or metrics_port(cluster)
    settings = {
        **cluster.worker.settings,
        "METRICS_PORT": str(port),
        "DATA_DIR": str(cluster.folder / "qonduit_worker"),
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


async def says_draining(cluster: ScriptedCluster) -> None:
    await cluster.until(
        lambda: next((beat for beat in cluster.of(WorkerHeartbeat) if beat.draining), None), "a heartbeat that drains"
    )


async def test_it_returns_once_the_last_program_has_ended(cluster: ScriptedCluster) -> None:
    job = await cluster.run("import time\nprint('begun', flush=True)\ntime.sleep(5)\n")
    await job.logged("begun")
    process = await leaving(cluster, 60)
    await says_draining(cluster)
    assert process.returncode is None
    code, output = await ended(process)
    assert code == 0, output
    assert [end.lease_id for end in cluster.of(LeaseEnded)] == [job.lease_id]


async def test_it_gives_up_in_time_and_says_what_that_means(cluster: ScriptedCluster) -> None:
    job = await cluster.run("import time\nprint('begun', flush=True)\ntime.sleep(600)\n")
    await job.logged("begun")
    code, output = await ended(await leaving(cluster, 4))
    assert code == 1
    assert "run again elsewhere" in output
    assert cluster.of(LeaseEnded) == []


async def test_a_worker_that_has_ended_is_not_waited_for(cluster: ScriptedCluster) -> None:
    port = metrics_port(cluster)
    cluster.worker.stop()
    code, output = await ended(await leaving(cluster, 60, port))
    assert code == 0, output


async def test_wrong_usage_is_told() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "qonduit_worker", "drain", "soon", stderr=asyncio.subprocess.PIPE
    )
    _, errors = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert process.returncode == 1
    assert "drain SECONDS" in errors.decode()
