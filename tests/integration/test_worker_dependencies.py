"""Functions with dependencies on a real worker: their environments are built, waited for, shared, and given up."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from qonduit_service_kit.messages import EventKind, Reason, StopAttempt, WorkerHeartbeat
from qonduit_worker.dependencies.testing import SlowIndex, write_wheel
from scripted_cluster import MIB, PATIENCE_S, ScriptedCluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from qonduit_service_kit.testing import PrivateBroker

pytestmark = pytest.mark.asyncio(loop_scope="module")

HEAD = "from qonduit.program import save_result\n"
FAN_OUT = f"""
from qiskit_serverless import distribute_task, get, save_result

@distribute_task(target={{"cpu": 1, "mem": {128 * MIB}}})
def versions():
    import tinypkg, tinydep, subprocess, sys
    told = subprocess.run([sys.executable, "-c", "import tinypkg; print(tinypkg.version)"], stdout=subprocess.PIPE)
    return [tinypkg.version, tinydep.version, told.stdout.decode().strip()]
"""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def index() -> AsyncIterator[SlowIndex]:
    server = SlowIndex()
    await server.start()
    yield server
    await server.stop()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def cluster(
    broker: PrivateBroker, tmp_path_factory: pytest.TempPathFactory, index: SlowIndex
) -> AsyncIterator[ScriptedCluster]:
    wheels = tmp_path_factory.mktemp("wheels")
    write_wheel(wheels, "tinypkg", "1.0", requires=["tinydep>=1"])
    write_wheel(wheels, "tinydep", "2.0")
    write_wheel(wheels, "packaging", "99.0", files={"packaging/__init__.py": "__version__ = '99.0'"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UV_DEFAULT_INDEX", index.url)
        patch.setenv("UV_HTTP_TIMEOUT", "3600")  # A build hangs for as long as the test wants it to.
        async with ScriptedCluster.running(
            broker.vhost_url("worker-dependencies"),
            tmp_path_factory.mktemp("cluster"),
            PRELOAD='["qonduit.program.executor", "qonduit.program.runner", "qonduit.job", "packaging"]',
            DEPENDENCY_FIND_LINKS=json.dumps([str(wheels)]),
        ) as made:
            yield made


async def test_driver_and_tasks_import_what_the_function_depends_on(cluster: ScriptedCluster) -> None:
    program = "import tinypkg\n" + FAN_OUT + "save_result([tinypkg.version, *get(versions())])\n"
    job = await cluster.run(program, dependencies=("tinypkg==1.0", "numpy>=1"))
    await job.grant_executors(1)
    assert await job.result() == ["1.0", "1.0", "2.0", "1.0"]
    lines = (await job.log()).splitlines()
    assert lines[0] == "[qonduit] building the environment of this function: numpy>=1, tinypkg==1.0"
    assert "[qonduit] 2 packages: tinydep==2.0, tinypkg==1.0" in lines
    assert any(line.startswith("[qonduit] built in ") for line in lines)
    again = await cluster.run("import tinypkg\n", dependencies=("numpy>=1", "tinypkg==1.0"))
    assert await again.result() is None
    assert await again.log() == ""


async def test_an_executor_builds_what_its_machine_has_not_got_and_says_so(cluster: ScriptedCluster) -> None:
    job = await cluster.run(FAN_OUT + "save_result(get(versions()))\n")
    await job.grant_executors(1, dependencies=("no-such-package",))
    await job.logged("no-such-package was not found")
    await job.grant_executors(1, first=1, dependencies=("tinypkg", "tinydep"))
    await job.logged(f"worker {cluster.worker_id}: built in")
    assert await job.result() == ["1.0", "2.0", "1.0"]


async def test_what_a_providers_function_depends_on_is_told_to_its_provider_alone(cluster: ScriptedCluster) -> None:
    spaces = {"space": "functions/acme/solver/ada", "provider_space": "providers/acme/solver"}
    program = FAN_OUT + "save_result(get(versions()))\n"
    job = await cluster.run(program, provider="acme", dependencies=("tinypkg==1.0",), **spaces)
    await job.grant_executors(1, dependencies=("no-such-package",))
    await job.logged("an executor could not be started here")
    await job.grant_executors(1, first=1, dependencies=("tinypkg", "tinydep==2.0"))
    assert await job.result() == ["1.0", "2.0", "1.0"]
    user, provider = await job.both_logs()
    told = "an executor could not be started here; the function's provider can see why"
    assert user == f"[qonduit] worker {cluster.worker_id}: {told}\n"
    assert "[qonduit] building the environment of this function: tinypkg==1.0\n" in provider
    assert "no-such-package was not found" in provider
    assert f"[qonduit] worker {cluster.worker_id}: building" in provider
    assert "[PRIVATE]" not in provider


async def test_another_version_of_what_programs_find_imported(cluster: ScriptedCluster) -> None:
    code = HEAD + "import packaging\nsave_result(packaging.__version__)\n"
    job = await cluster.run(code, dependencies=("packaging>=99",))
    assert await job.result() == "99.0"
    assert "instead of the worker's own packaging" in await job.log()
    plain = await cluster.run(code, dependencies=("packaging",))
    assert await plain.result() != "99.0"


async def test_an_environment_that_cannot_be_built_is_told_before_the_program_runs(cluster: ScriptedCluster) -> None:
    job = await cluster.run("", dependencies=("numpy>=1", "no-such-package==1.0"))
    end = await job.finished()
    assert end.reason is Reason.DEPENDENCY_ERROR
    assert "no-such-package was not found" in end.text
    assert [event.kind for event in job.events] == [EventKind.INITIALIZING, EventKind.FINISHED]


async def test_what_is_no_plain_requirement_is_refused(cluster: ScriptedCluster) -> None:
    end = await (await cluster.run("", dependencies=("x @ file:///etc",))).finished()
    assert end.reason is Reason.DEPENDENCY_ERROR
    assert "QONDUIT_WORKER_DEPENDENCY_ADDRESSES" in end.text


async def test_other_functions_run_while_a_build_hangs_and_a_cancel_ends_the_wait(
    cluster: ScriptedCluster, index: SlowIndex
) -> None:
    waiting = [await cluster.run("", dependencies=("slow",)) for _ in range(2)]
    await asyncio.wait_for(index.asked.wait(), PATIENCE_S)
    for job in waiting:
        await job.logged("building the environment of this function: slow")
    plain = await cluster.run(HEAD + "save_result('plain')\n")
    other = await cluster.run(HEAD + "import tinydep\nsave_result(tinydep.version)\n", dependencies=("tinydep",))
    assert await plain.result() == "plain"
    assert await other.result() == "2.0"
    assert [event.kind for event in waiting[0].events] == [EventKind.INITIALIZING]
    await cluster.send(StopAttempt(waiting[0].spec.job_id, 1, Reason.CANCELED))
    assert (await waiting[0].finished()).reason is Reason.CANCELED
    assert not index.left.is_set()
    await cluster.send(StopAttempt(waiting[1].spec.job_id, 1, Reason.CANCELED))
    assert (await waiting[1].finished()).reason is Reason.CANCELED
    await asyncio.wait_for(index.left.wait(), PATIENCE_S)


async def test_the_jobs_time_limit_ends_the_wait_too(cluster: ScriptedCluster) -> None:
    end = await (await cluster.run("", dependencies=("slow>=2",), time_limit_s=0.5)).finished()
    assert end.reason is Reason.TIMEOUT
    assert "environment was not built" in end.text


async def test_a_killed_worker_takes_its_builds_with_it(cluster: ScriptedCluster, index: SlowIndex) -> None:
    index.asked.clear()
    index.left.clear()
    await cluster.run("", dependencies=("slow>=3",))
    await asyncio.wait_for(index.asked.wait(), PATIENCE_S)
    environments = cluster.folder / "qonduit_worker" / "environments"
    assert list(environments.glob("*.part"))
    cluster.worker.kill()
    await asyncio.wait_for(index.left.wait(), PATIENCE_S)
    beats = len(cluster.of(WorkerHeartbeat))
    await cluster.worker.start()
    await cluster.heartbeat(after=beats)
    assert not list(environments.glob("*.part"))
    job = await cluster.run("import tinypkg\n", dependencies=("numpy>=1", "tinypkg==1.0"))
    assert await job.result() is None
    assert await job.log() == ""
