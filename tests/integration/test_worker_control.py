"""What a worker does when it is told to stop, told twice, or told too late."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from qonduit_service_kit.messages import (
    ALL_WORKERS,
    EventKind,
    LeaseEnded,
    LeaseRevoked,
    ProgramEnded,
    QpuState,
    QpuTransition,
    Reason,
    SchedulerElected,
    Stage,
    StopAttempt,
    WorkerDrain,
    WorkerHeartbeat,
)
from scripted_cluster import ScriptedCluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from qonduit_service_kit.testing import PrivateBroker
    from scripted_cluster import Job

pytestmark = pytest.mark.asyncio(loop_scope="module")

SLEEPS = "import time\nprint('begun')\ntime.sleep(600)\n"
IGNORES_SIGTERM = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SLEEPS


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def cluster(broker: PrivateBroker, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ScriptedCluster]:
    async with ScriptedCluster.running(broker.vhost_url("worker-control"), tmp_path_factory.mktemp("cluster")) as made:
        yield made


async def stop(job: Job, cause: Reason = Reason.CANCELED, *, grace_s: float = 0.3) -> None:
    await job.cluster.send(StopAttempt(job.spec.job_id, job.spec.attempt, cause, grace_s))


@pytest.mark.parametrize("program", [SLEEPS, IGNORES_SIGTERM])
async def test_a_cancel_ends_a_running_program(cluster: ScriptedCluster, program: str) -> None:
    job = await cluster.run(program)
    await job.logged("begun")
    await stop(job)
    await stop(job)
    end = await job.finished()
    assert end.reason is Reason.CANCELED
    await job.lease_ended()
    assert [event.kind for event in job.events].count(EventKind.FINISHED) == 1


async def test_a_cancel_while_the_job_is_being_prepared(cluster: ScriptedCluster) -> None:
    spec = await cluster.spec(SLEEPS)
    cluster.storage.kill()  # What the job needs cannot be fetched: it stays in INITIALIZING.
    job = await cluster.grant(spec)
    await job.reached(EventKind.INITIALIZING)
    await stop(job)
    end = await job.finished()
    await cluster.storage.start()
    assert end.reason is Reason.CANCELED
    assert [event.kind for event in job.events] == [EventKind.INITIALIZING, EventKind.FINISHED]


async def test_a_cancel_beats_a_placement(cluster: ScriptedCluster) -> None:
    spec = await cluster.spec(SLEEPS)
    await cluster.send(StopAttempt(spec.job_id, spec.attempt, Reason.CANCELED))
    job = await cluster.grant(spec)
    end = await job.finished()
    assert end.reason is Reason.CANCELED
    assert [event.kind for event in job.events] == [EventKind.FINISHED]
    await job.lease_ended()


async def test_a_stale_attempt_ends_without_a_word(cluster: ScriptedCluster) -> None:
    job = await cluster.run(SLEEPS)
    await job.logged("begun")
    await stop(job, Reason.WORKER_LOST)
    await job.lease_ended()
    assert EventKind.FINISHED not in {event.kind for event in job.events}


async def test_a_revoked_driver_ends_without_a_word(cluster: ScriptedCluster) -> None:
    job = await cluster.run(SLEEPS)
    await job.logged("begun")
    await cluster.send(LeaseRevoked(cluster.term, job.lease_id, "moved"))
    await job.lease_ended()
    assert EventKind.FINISHED not in {event.kind for event in job.events}


async def test_a_lease_nobody_knows_is_told_to_be_over(cluster: ScriptedCluster) -> None:
    await cluster.send(LeaseRevoked(cluster.term, "never-granted", "cleaning up"))
    await cluster.until(
        lambda: next((end for end in cluster.of(LeaseEnded) if end.lease_id == "never-granted"), None), "an answer"
    )


async def test_a_grant_that_comes_twice_runs_once(cluster: ScriptedCluster) -> None:
    job = await cluster.run("print('once')\n")
    await cluster.grant(job.spec, lease_id=job.lease_id)
    await job.finished()
    await job.lease_ended()
    # The same attempt under another lease runs no second time either, also when it is over.
    again = await cluster.grant(job.spec)
    await again.lease_ended()
    assert await job.log() == "once\n"
    assert [event.kind for event in job.events].count(EventKind.RUNNING) == 1


async def test_grants_of_an_older_term_are_refused(cluster: ScriptedCluster) -> None:
    cluster.term = 5
    await cluster.bus.publish(ALL_WORKERS, SchedulerElected(5))
    await cluster.until(
        lambda: next((beat for beat in cluster.of(WorkerHeartbeat) if beat.term == 5), None), "the new term"
    )
    late = await cluster.grant(await cluster.spec("print('old')\n"), term=4)
    current = await cluster.run("print('new')\n")
    await current.finished()
    assert late.events == []


async def test_heartbeats_tell_the_leases_in_force(cluster: ScriptedCluster) -> None:
    job = await cluster.run(SLEEPS)
    await job.logged("begun")
    beat = await cluster.heartbeat(leases=1, after=len(cluster.of(WorkerHeartbeat)))
    assert (beat.leases[0].lease_id, beat.leases[0].job_id, beat.worker_id) == (
        job.lease_id,
        job.spec.job_id,
        cluster.worker_id,
    )
    assert beat.capacity.cpu_millis == 16_000
    await stop(job, grace_s=0)
    await job.finished()
    await cluster.heartbeat(leases=0, after=len(cluster.of(WorkerHeartbeat)))


async def test_a_drained_worker_ends_what_it_has_and_takes_nothing_new_also_after_a_restart(
    cluster: ScriptedCluster,
) -> None:
    begun = await cluster.run(SLEEPS)
    await begun.logged("begun")
    await drain(cluster, draining=True)
    await beat_says(cluster, draining=True)

    refused = await cluster.grant(await cluster.spec("print('no')\n"))
    assert (await refused.lease_ended()).refused
    told = cluster.messages.index(await refused.lease_ended())
    beats = [message for message in cluster.messages[:told] if isinstance(message, WorkerHeartbeat)]
    assert beats[-1].draining, "who hears of the refusal knows the reason"
    assert refused.events == []
    assert [lease.lease_id for lease in beats[-1].leases] == [begun.lease_id]
    await stop(begun, grace_s=0)
    await begun.finished()

    cluster.worker.stop()
    await cluster.worker.start()
    await beat_says(cluster, draining=True)
    await drain(cluster, draining=False)
    await beat_says(cluster, draining=False)
    taken = await cluster.run("print('yes')\n")
    await taken.finished()


async def drain(cluster: ScriptedCluster, *, draining: bool) -> None:
    order = WorkerDrain(cluster.worker_id, draining, time.time())
    await cluster.send(order)
    await cluster.send(order)


async def beat_says(cluster: ScriptedCluster, *, draining: bool) -> None:
    """Wait for a heartbeat that comes from now on and says so."""
    after = len(cluster.of(WorkerHeartbeat))
    await cluster.until(
        lambda: next((beat for beat in cluster.of(WorkerHeartbeat)[after:] if beat.draining is draining), None),
        f"a heartbeat with draining={draining}",
    )


async def test_qpu_jobs_set_the_stage_and_give_it_back(cluster: ScriptedCluster) -> None:
    job = await cluster.run("from qonduit.program import update_status\nupdate_status('MAPPING')\n" + SLEEPS)
    await job.logged("begun")
    states = (QpuState.QUEUED, QpuState.RUNNING, QpuState.COMPLETED)
    for sequence, state in enumerate(states):
        step = QpuTransition(
            "q1", job.spec.job_id, 1, sequence, state, 0.0, "ibm_torino", qpu_seconds=1.5 if state.final else None
        )
        await cluster.send(step)
        await cluster.send(step)
    await cluster.until(lambda: True if len(_stages(job)) >= 4 else None, "four stages")
    await stop(job, grace_s=0)
    end = await job.finished()
    assert _stages(job) == [Stage.MAPPING, Stage.WAITING_FOR_QPU, Stage.EXECUTING_QPU, Stage.MAPPING]
    assert not any(usage.qpu_s for usage in end.usage), "what QPU work costs, the broker says"
    await cluster.until(
        lambda: next((ended for ended in cluster.of(ProgramEnded) if ended.job_id == job.spec.job_id), None),
        "the word to the QPU broker",
    )


def _stages(job: Job) -> list[Stage]:
    return [event.stage for event in job.events if event.kind is EventKind.STAGE]
