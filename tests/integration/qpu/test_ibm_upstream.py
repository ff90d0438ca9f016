"""Programs through sandbox, bus and broker on IBM's service: once each, one bill, and nothing noticed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil
import pytest
import pytest_asyncio
from fake_ibm import Fault, How
from ibm_world import KEY, ibm_world
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fake_ibm import UpstreamJob
    from ibm_world import IbmWorld, Sampler
    from qonduit_service_kit.testing import PrivateBroker

pytestmark = pytest.mark.asyncio(loop_scope="module")
STEPS = [(0, "Queued"), (1, "Running"), (2, "Completed")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(
    broker: PrivateBroker, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[IbmWorld, Sampler]]:
    async with ibm_world(broker, tmp_path_factory.mktemp("ibm")) as made:
        sampler = await made.sampler()
        yield made, sampler
        await sampler.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def world(shared: tuple[IbmWorld, Sampler]) -> AsyncIterator[IbmWorld]:
    """The same for all tests, as if it were new."""
    made, sampler = shared
    made.ibm.forget()
    sampler.sandbox.transitions.clear()
    yield made


async def sampled(world: IbmWorld, sampler: Sampler) -> UpstreamJob:
    """Run one job to its end: the program sees nothing, the provider has it once, and it is charged once."""
    told = await sampler.run(200)
    assert (told["shots"], told["status"], told["tags"]) == (200, "DONE", ["mine"])
    await sampler.sandbox.until("Completed")
    assert sampler.sandbox.steps() == {told["id"]: STEPS}
    (job,) = world.ibm.quantum.jobs.values()
    assert world.charges()[told["id"]] == pytest.approx(job.charged_s) == pytest.approx(world.ibm.quantum.billed_s)
    assert told["usage"] == pytest.approx(job.charged_s)
    assert job.tags == ["mine", f"qonduit-{told['id']}"]
    return job


async def test_a_job_is_submitted_followed_and_charged(world: IbmWorld, shared: tuple[IbmWorld, Sampler]) -> None:
    job = await sampled(world, shared[1])
    assert job.api_version == "2026-04-15"


async def test_the_key_is_nowhere_but_in_the_broker(world: IbmWorld, shared: tuple[IbmWorld, Sampler]) -> None:
    sampler = shared[1]
    await sampled(world, sampler)
    process = world.broker.process
    assert process is not None
    assert KEY not in world.broker.log() + world.broker.metrics() + repr(sampler.sandbox.transitions)
    assert KEY.encode() not in b"".join(path.read_bytes() for path in world.folder.rglob("ledger.sqlite3*"))
    assert psutil.Process(process.pid).rlimit(psutil.RLIMIT_CORE) == (0, 0)


@pytest.mark.parametrize(
    "fault",
    [
        Fault("POST", "/jobs", how=How.RESET, takes_effect=True),
        Fault("POST", "/jobs", how=How.RESET),
        Fault("POST", "/jobs", how=How.MIDWAY),
        Fault("POST", "/jobs", status=500, takes_effect=True, times=2),
        Fault("POST", "/jobs", status=503),
        Fault("POST", "/jobs", status=429, retry_after_s=0.3),
        Fault("POST", "/jobs", status=401),
        Fault("GET", "/jobs", status=500, times=3),
        Fault("GET", "/jobs/[^/]*", how=How.RESET, times=3),
        Fault("GET", "/jobs/.*/results", how=How.MIDWAY, times=2),
        Fault("GET", "/jobs/.*/results", status=502, times=2),
    ],
    ids=lambda fault: f"{fault.method}{fault.path}-{fault.how.name}-{fault.status}-{fault.takes_effect}",
)
async def test_no_fault_is_paid_twice_or_noticed(
    world: IbmWorld, shared: tuple[IbmWorld, Sampler], fault: Fault
) -> None:
    world.ibm.quantum.tag_lag_s = 0.5
    world.ibm.faults.append(fault)
    await sampled(world, shared[1])
    assert fault.seen.is_set()


async def test_what_is_asked_of_the_provider_is_counted_with_its_faults(
    world: IbmWorld, shared: tuple[IbmWorld, Sampler]
) -> None:
    def counted(name: str, **labels: str) -> float:
        return sum(
            sample.value
            for family in text_string_to_metric_families(world.broker.metrics())
            for sample in family.samples
            if sample.name == f"qonduit_qpu_upstream_{name}_total" and labels.items() <= sample.labels.items()
        )

    posts = {outcome: counted("requests", method="POST", outcome=outcome) for outcome in ("ok", "throttled")}
    retries = counted("retries", what="submission")
    world.ibm.faults.append(Fault("POST", "/jobs", status=429, times=1, retry_after_s=0.1))
    await sampled(world, shared[1])
    assert counted("requests", method="POST", outcome="throttled") - posts["throttled"] == 1
    assert counted("requests", method="POST", outcome="ok") - posts["ok"] == 1
    assert counted("retries", what="submission") - retries == 1
