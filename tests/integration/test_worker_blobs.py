"""Large values: they stay on the machine where they are used, and cross to another one once."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, Final

import pytest
import pytest_asyncio
from qonduit_service_kit.messages import LeaseEnded, LeaseRevoked, Reason, Shape, StopAttempt, worker
from scripted_cluster import MIB, PATIENCE_S, ScriptedCluster, artifact_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from qonduit_service_kit.testing import PrivateBroker

pytestmark = pytest.mark.asyncio(loop_scope="module")

BIG: Final = 20 * MIB
CACHE: Final = 160 * MIB
AWAY: Final = "away"
DRIVER: Final = Shape(1000, 512 * MIB)

ARGUMENT = f"""
import hashlib, os
from qiskit_serverless import distribute_task, get, put, save_result

@distribute_task(target={{"cpu": 1, "mem": {256 * MIB}}})
def digest_of(value):
    return hashlib.sha256(value).hexdigest()

value = os.urandom({BIG})
shared = put(value)
digests = get([digest_of(shared) for _ in range(8)])
save_result(digests == [hashlib.sha256(value).hexdigest()] * 8)
"""
MORE_THAN_FITS = f"""
import hashlib, os
from qiskit_serverless import distribute_task, get, put, save_result

@distribute_task(target={{"cpu": 1, "mem": {256 * MIB}}})
def digest_of(value):
    return hashlib.sha256(value).hexdigest()

shared, digests = [], []
for _ in range(10):
    value = os.urandom({BIG})
    digests.append(hashlib.sha256(value).hexdigest())
    shared.append(put(value))
save_result(get([digest_of(one) for one in shared + shared]) == digests + digests)
"""
VALUE = f"""
import hashlib, os
from qiskit_serverless import distribute_task, get, save_result

@distribute_task(target={{"cpu": 1, "mem": {256 * MIB}}})
def make():
    value = os.urandom({BIG})
    return value, hashlib.sha256(value).hexdigest()

value, digest = get(make())
save_result(hashlib.sha256(value).hexdigest() == digest)
"""
FETCHED_LATE = """
import time
from qiskit_serverless import get_refs_by_status
from qonduit.program.channel import agent
reference = make()
get_refs_by_status([reference])
print("the task is done", flush=True)
while not agent().call("files_list"):
    time.sleep(0.05)
value, digest = get(reference)
"""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def cluster(broker: PrivateBroker, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ScriptedCluster]:
    url = broker.vhost_url("worker-blobs")
    preload = '["qonduit.program.executor", "qonduit.program.runner", "qonduit.job"]'
    async with ScriptedCluster.running(
        url, tmp_path_factory.mktemp("cluster"), PRELOAD=preload, CACHE_BYTES=str(CACHE)
    ) as made:
        await made.add_worker(AWAY)
        yield made


async def test_what_jobs_had_is_removed_once_nobody_uses_it(broker: PrivateBroker, tmp_path: Path) -> None:
    async with ScriptedCluster.running(broker.vhost_url("unused-blobs"), tmp_path, CACHE_KEPT_S="0.5") as cluster:
        job = await cluster.run(f"from qiskit_serverless import save_result\nsave_result('x' * {MIB})\n")
        assert len(await job.result()) == MIB
        blobs = tmp_path / "qonduit_worker" / "blobs"
        async with asyncio.timeout(PATIENCE_S):
            while [path for path in blobs.iterdir() if path.is_file()]:  # noqa: ASYNC110 - It is another process's.
                await asyncio.sleep(0.05)
        assert len(await job.result()) == MIB, "storage still has it"


def local_files(cluster: ScriptedCluster) -> list[Path]:
    """Return what the workers keep for attempts that run."""
    return [
        path
        for folder in (cluster.folder, cluster.folder / AWAY)
        for path in (folder / "qonduit_worker" / "blobs" / "scopes").iterdir()
    ]


async def end(cluster: ScriptedCluster, leases: list[str]) -> None:
    """End executors, on whichever worker they are, and wait until nothing of the job is left."""
    for lease_id in leases:
        revoked = LeaseRevoked(cluster.term, lease_id, "done", now=True)
        await cluster.bus.publish(worker(AWAY if AWAY in lease_id else cluster.worker_id), revoked)
        await cluster.until(
            lambda lease_id=lease_id: next(  # type: ignore[misc]
                (ended for ended in cluster.of(LeaseEnded) if ended.lease_id == lease_id), None
            ),
            "the end of a lease",
        )
    async with asyncio.timeout(PATIENCE_S):
        while local_files(cluster):  # noqa: ASYNC110 - Removed after the end of a lease was told: nobody says so.
            await asyncio.sleep(0.01)


async def grown(cluster: ScriptedCluster, way: str, before: int, at_least: int) -> int:
    """Return how much more storage has served or stored, once that is so much: it counts what it has served after."""
    async with asyncio.timeout(PATIENCE_S):
        while (more := await cluster.transferred(way) - before) < at_least:  # noqa: ASYNC110 - A counter tells nobody.
            await asyncio.sleep(0.02)
    return more


@pytest.mark.parametrize("program", [ARGUMENT, VALUE], ids=["argument", "value"])
async def test_on_one_machine_nothing_goes_through_storage(cluster: ScriptedCluster, program: str) -> None:
    job = await cluster.run(program, shape=DRIVER)
    before = await cluster.transferred("served"), await cluster.transferred("stored")
    leases = await job.grant_executors(2)
    assert await job.result() is True
    assert await cluster.transferred("served") - before[0] < MIB
    assert await cluster.transferred("stored") - before[1] < MIB
    await end(cluster, leases)


async def test_an_argument_crosses_to_another_machine_once_for_all_its_tasks(cluster: ScriptedCluster) -> None:
    job = await cluster.run(ARGUMENT, shape=DRIVER)
    before = await cluster.transferred("served"), await cluster.transferred("stored")
    leases = await job.grant_executors(2, on=AWAY)
    assert await job.result() is True
    assert await grown(cluster, "served", before[0], BIG) < BIG + MIB
    assert await grown(cluster, "stored", before[1], BIG) < BIG + MIB
    await end(cluster, leases)


async def test_what_had_to_make_room_and_what_is_still_here_reach_the_tasks_of_both_machines(
    cluster: ScriptedCluster,
) -> None:
    job = await cluster.run(MORE_THAN_FITS, shape=DRIVER)
    before = await cluster.transferred("stored")
    leases = [*await job.grant_executors(1), *await job.grant_executors(1, on=AWAY)]
    assert await job.result() is True
    await grown(cluster, "stored", before, 10 * BIG - CACHE)
    await end(cluster, leases)


async def test_a_value_made_on_another_machine_survives_that_machine(cluster: ScriptedCluster, tmp_path: Path) -> None:
    doomed = f"{AWAY}-doomed"
    await cluster.add_worker(doomed)
    job = await cluster.run(VALUE.replace("value, digest = get(make())\n", FETCHED_LATE), shape=DRIVER)
    await job.grant_executors(1, on=doomed)
    await job.logged("the task is done")
    cluster.others.pop(doomed).kill()
    go_on = tmp_path / "go-on.tar"
    go_on.write_bytes(artifact_of({"go": "on"}))
    digest = hashlib.sha256(go_on.read_bytes()).hexdigest()
    await cluster.store().put_file("users/ada", go_on.name, digest, go_on)
    assert await job.result() is True
    await end(cluster, [])


async def test_a_canceled_job_leaves_no_value_behind(cluster: ScriptedCluster) -> None:
    job = await cluster.run(
        "import time\nfrom qiskit_serverless import put\n"
        f"put(bytes({BIG}))\nprint('stored', flush=True)\ntime.sleep(600)\n",
        shape=DRIVER,
    )
    await job.logged("stored")
    assert local_files(cluster)
    await cluster.send(StopAttempt(job.spec.job_id, 1, Reason.CANCELED, grace_s=0.0))
    assert (await job.finished()).reason is Reason.CANCELED
    await end(cluster, [])


async def test_a_program_cannot_change_a_value_once_it_is_stored(cluster: ScriptedCluster) -> None:
    job = await cluster.run(
        "import os\n"
        "from qiskit_serverless import save_result\n"
        "from qonduit.program.blobs import _connection, fetch_blob, store_blob\n"
        "from qonduit.program.channel import agent\n"
        "digest = store_blob(agent(), bytes(10**6))\n"
        "with _connection(agent()) as connection:\n"
        "    descriptor, _ = connection.open(digest)\n"
        "path = f'/proc/self/fd/{descriptor}'\n"
        "done = []\n"
        "for name, change in {\n"
        "    'write': lambda: os.write(descriptor, b'x'),\n"
        "    'truncate': lambda: os.ftruncate(descriptor, 0),\n"
        "    'open': lambda: os.open(path, os.O_RDWR),\n"
        "}.items():\n"
        "    try:\n        change()\n        done.append(name)\n    except OSError:\n        pass\n"
        "save_result([done, fetch_blob(agent(), digest) == bytes(10**6)])\n"
    )
    assert await job.result() == [[], True]
