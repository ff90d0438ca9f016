"""The real client straight at the fake service: what the broker is compared with must itself be right."""

from __future__ import annotations

import asyncio
import os
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import pytest
from fake_ibm import FakeIbm, Fault, How, Instance
from ibm_world import PREPARE
from qpu_world import Finished, finish

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def ibm() -> AsyncIterator[FakeIbm]:
    service = FakeIbm(Instance(plan="paygo"))
    await service.start()
    yield service
    await service.stop()


async def start(ibm: FakeIbm, folder: Path, script: str) -> asyncio.subprocess.Process:
    path = folder / "program.py"
    path.write_text(PREPARE + textwrap.dedent(script))
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "ignore", str(path)),
        env={"PATH": os.environ["PATH"], "HOME": str(folder), **ibm.environment()},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def run(ibm: FakeIbm, folder: Path, script: str) -> Finished:
    return await finish(await start(ibm, folder, script))


async def test_a_sampler_job_is_run_billed_and_found_by_its_tag(ibm: FakeIbm, tmp_path: Path) -> None:
    told: Any = (
        await run(
            ibm,
            tmp_path,
            """
            sampler = SamplerV2(mode=backend)
            sampler.options.environment.job_tags = ["mine"]
            job = sampler.run([isa], shots=200)
            counts = job.result()[0].data.meas.get_counts()
            found = [one.job_id() for one in service.jobs(job_tags=["mine"])]
            print(json.dumps([job.job_id(), sum(counts.values()), sorted(counts), found, job.usage(), job.status()]))
            """,
        )
    ).told
    (job,) = ibm.quantum.jobs.values()
    assert told == [job.job_id, 200, ["00", "11"], [job.job_id], job.charged_s, "DONE"]
    assert ibm.quantum.billed_s == job.charged_s > 0
    assert job.api_version == "2026-04-15"


async def test_sessions_are_billed_by_the_clock_and_batches_by_job(ibm: FakeIbm, tmp_path: Path) -> None:
    ibm.quantum.running.run_s = 0.5
    told = (
        await run(
            ibm,
            tmp_path,
            """
            with Session(backend=backend) as session:
                SamplerV2(mode=session).run([isa], shots=10).result()
                active = session.status()
            with Batch(backend=backend) as batch:
                jobs = [SamplerV2(mode=batch).run([isa], shots=10) for _ in range(3)]
            done = [job.result()[0].metadata is not None for job in jobs]
            print(json.dumps([active, session.details()["state"], batch.details()["state"], done]))
            """,
        )
    ).told
    assert told == ["In progress, accepting new jobs", "closed", "closed", [True, True, True]]
    dedicated, batch = ibm.quantum.sessions.values()
    assert (dedicated.mode, batch.mode) == ("dedicated", "batch")
    assert dedicated.closed_at is not None
    held_s = dedicated.held_s(dedicated.closed_at)
    in_batch_s = sum(job.charged_s for job in ibm.quantum.jobs.values() if job.session_id == batch.session_id)
    assert held_s >= 0.5
    assert ibm.quantum.billed_s == pytest.approx(held_s + in_batch_s)


async def test_a_job_that_is_cancelled_while_it_waits_costs_nothing(ibm: FakeIbm, tmp_path: Path) -> None:
    async with ibm.quantum.running.held(ibm.quantum.running.queue_open):
        told = (
            await run(
                ibm,
                tmp_path,
                """
                job = SamplerV2(mode=backend).run([isa], shots=10)
                job.cancel()
                print(json.dumps([job.status(), job.usage()]))
                """,
            )
        ).told
    assert told == ["CANCELLED", 0]
    assert ibm.quantum.billed_s == 0


@pytest.mark.parametrize(
    ("fault", "error", "jobs"),
    [
        (Fault("POST", "/jobs", status=429, retry_after_s=1.0), "429", 0),
        (Fault("POST", "/jobs", how=How.RESET, takes_effect=True), "Connection", 1),
        (Fault("GET", "/jobs/.*", status=404), "404", 1),
        (Fault("POST", "/jobs", status=409, code=1515), "409", 0),
    ],
)
async def test_faults_reach_the_client_as_the_real_ones_do(
    ibm: FakeIbm, tmp_path: Path, fault: Fault, error: str, jobs: int
) -> None:
    ibm.faults.append(fault)
    ended = await run(ibm, tmp_path, "SamplerV2(mode=backend).run([isa], shots=10).result()")
    assert ended.code == 1
    assert error in ended.err
    assert fault.seen.is_set()
    assert len(ibm.quantum.jobs) == jobs


async def test_a_fault_that_the_client_retries_after_the_job_was_made_makes_a_second_one(
    ibm: FakeIbm, tmp_path: Path
) -> None:
    ibm.faults.append(Fault("POST", "/jobs", status=500, takes_effect=True))
    ended = await run(ibm, tmp_path, "SamplerV2(mode=backend).run([isa], shots=10).result()\nprint(json.dumps(1))")
    assert ended.told == 1
    assert len(ibm.quantum.jobs) == 2, "this is what costs twice, and what the broker must not do"


async def test_no_token_no_answer(ibm: FakeIbm, tmp_path: Path) -> None:
    ended = await run(
        ibm,
        tmp_path,
        """
        from qiskit_ibm_runtime.accounts.exceptions import InvalidAccountError
        try:
            QiskitRuntimeService(token="another key", url=service.active_account()["url"])
        except InvalidAccountError as error:
            print(json.dumps(str(error)))
        """,
    )
    assert "Unable to retrieve instances" in ended.told
