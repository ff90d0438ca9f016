from __future__ import annotations

from qonduit_service_kit.messages import QpuState, QpuTransition, Stage, StageUsage
from qonduit_worker.stages import Reading, StageClock

MIB = 1024**2


def at(moment: float, cpu_s: float = 0.0, mem: int = 0, peak: int = 0) -> Reading:
    return Reading(moment, cpu_s, mem * MIB, peak * MIB)


def step(job: str, sequence: int, state: QpuState, qpu_s: float | None = None) -> QpuTransition:
    return QpuTransition(job, "j", 1, sequence, state, 0.0, "ibm_torino", qpu_seconds=qpu_s)


def used(clock: StageClock) -> dict[Stage, StageUsage]:
    return {usage.stage: usage for usage in clock.usage()}


def test_time_goes_to_the_stage_that_it_passed_in() -> None:
    clock = StageClock(at(0))
    assert clock.program_says(Stage.MAPPING, at(1, cpu_s=0.5))
    assert not clock.program_says(Stage.MAPPING, at(2, cpu_s=1.0))
    assert clock.program_says(Stage.POST_PROCESSING, at(5, cpu_s=3.5))
    clock.book_until(at(6, cpu_s=4.0))
    totals = used(clock)
    assert (totals[Stage.NONE].wall_s, totals[Stage.NONE].cpu_s) == (1, 0.5)
    assert (totals[Stage.MAPPING].wall_s, totals[Stage.MAPPING].cpu_s) == (4, 3.0)
    assert (totals[Stage.POST_PROCESSING].wall_s, totals[Stage.POST_PROCESSING].cpu_s) == (1, 0.5)


def test_a_peak_belongs_to_the_stage_in_which_it_rose() -> None:
    clock = StageClock(at(0))
    clock.program_says(Stage.MAPPING, at(1, mem=10, peak=20))
    clock.program_says(Stage.POST_PROCESSING, at(2, mem=30, peak=300))
    clock.book_until(at(3, mem=40, peak=300))
    totals = used(clock)
    assert [totals[stage].peak_mem_bytes // MIB for stage in (Stage.NONE, Stage.MAPPING, Stage.POST_PROCESSING)] == [
        20,
        300,
        40,
    ]


def test_tasks_are_booked_to_the_stage_of_their_submission() -> None:
    clock = StageClock(at(0))
    clock.program_says(Stage.MAPPING, at(1))
    clock.program_says(Stage.POST_PROCESSING, at(2))
    clock.book_task(Stage.MAPPING, 2.5, 7 * MIB)
    assert used(clock)[Stage.MAPPING].cpu_s == 2.5
    assert used(clock)[Stage.MAPPING].peak_mem_bytes == 7 * MIB
    assert used(clock)[Stage.MAPPING].wall_s == 1


def test_qpu_jobs_lead_through_their_stages_and_back() -> None:
    clock = StageClock(at(0))
    clock.program_says(Stage.MAPPING, at(1))
    seen = [clock.stage]
    for transition in (
        step("a", 0, QpuState.QUEUED),
        step("b", 0, QpuState.QUEUED),
        step("a", 1, QpuState.RUNNING),
        step("a", 2, QpuState.COMPLETED),
        step("b", 1, QpuState.RUNNING),
        step("b", 2, QpuState.FAILED),
    ):
        clock.qpu_says(transition, at(2))
        clock.qpu_says(transition, at(2))
        seen.append(clock.stage)
    assert seen == [
        Stage.MAPPING,
        Stage.WAITING_FOR_QPU,
        Stage.WAITING_FOR_QPU,
        Stage.EXECUTING_QPU,
        Stage.WAITING_FOR_QPU,
        Stage.EXECUTING_QPU,
        Stage.MAPPING,
    ]


def test_what_the_program_says_meanwhile_shows_once_the_qpu_is_done() -> None:
    clock = StageClock(at(0))
    clock.qpu_says(step("a", 0, QpuState.QUEUED), at(1))
    assert not clock.program_says(Stage.POST_PROCESSING, at(2))
    assert clock.stage is Stage.WAITING_FOR_QPU
    assert clock.qpu_says(step("a", 1, QpuState.CANCELLED), at(3))
    assert clock.stage is Stage.POST_PROCESSING


def test_quantum_seconds_are_for_the_broker_to_charge() -> None:
    clock = StageClock(at(0))
    clock.qpu_says(step("a", 0, QpuState.RUNNING), at(1))
    clock.qpu_says(step("a", 1, QpuState.COMPLETED, 1.5), at(3))
    assert used(clock)[Stage.EXECUTING_QPU].wall_s == 2
    assert used(clock)[Stage.EXECUTING_QPU].qpu_s == 0
