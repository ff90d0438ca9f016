from __future__ import annotations

import pytest
from qonduit_qpu_broker.states import FOLLOWS, steps
from qonduit_service_kit.messages import QpuState


@pytest.mark.parametrize("final", [state for state in QpuState if state.final])
def test_a_final_state_is_never_left(final: QpuState) -> None:
    assert FOLLOWS[final] == frozenset()
    assert all(steps(final, target) == () for target in QpuState)


def test_a_job_too_quick_to_be_seen_running_passes_through_it() -> None:
    assert steps(QpuState.QUEUED, QpuState.COMPLETED) == (QpuState.RUNNING, QpuState.COMPLETED)


def test_a_queued_job_that_is_cancelled_never_ran() -> None:
    assert steps(QpuState.QUEUED, QpuState.CANCELLED) == (QpuState.CANCELLED,)


def test_a_late_or_repeated_report_changes_nothing() -> None:
    assert steps(QpuState.RUNNING, QpuState.RUNNING) == ()
    assert steps(QpuState.RUNNING, QpuState.QUEUED) == ()
