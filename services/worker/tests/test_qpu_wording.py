from __future__ import annotations

from dataclasses import replace

import pytest
from qonduit_service_kit.messages import QpuState, QpuTransition
from qonduit_worker.accounting import wording

STEP = QpuTransition("q1", "job-1", 1, 0, QpuState.QUEUED, 0.0, "ibm_torino")


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (STEP, "QPU job q1 waits for ibm_torino"),
        (replace(STEP, ahead=0, wait_s=0.0), "QPU job q1 waits for ibm_torino, 0 ahead"),
        (replace(STEP, ahead=3), "QPU job q1 waits for ibm_torino, 3 ahead"),
        (replace(STEP, ahead=3, wait_s=41.7), "QPU job q1 waits for ibm_torino, 3 ahead, for about 42 s"),
        (replace(STEP, state=QpuState.RUNNING), "QPU job q1 runs on ibm_torino"),
        (replace(STEP, state=QpuState.COMPLETED), "QPU job q1 on ibm_torino is completed"),
        (replace(STEP, state=QpuState.FAILED, text="No."), "QPU job q1 on ibm_torino failed: No."),
    ],
)
def test_a_step_of_a_qpu_job_in_words(step: QpuTransition, words: str) -> None:
    assert wording(step) == words
