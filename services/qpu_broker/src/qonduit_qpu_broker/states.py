"""The states of a QPU job and what may follow each: one table for the code, the tests and the docs."""

from __future__ import annotations

from qonduit_service_kit.messages import QpuState

FOLLOWS: dict[QpuState, frozenset[QpuState]] = {
    QpuState.QUEUED: frozenset({QpuState.RUNNING, QpuState.FAILED, QpuState.CANCELLED}),
    QpuState.RUNNING: frozenset({QpuState.COMPLETED, QpuState.FAILED, QpuState.CANCELLED}),
    QpuState.COMPLETED: frozenset(),
    QpuState.FAILED: frozenset(),
    QpuState.CANCELLED: frozenset(),
}


def steps(current: QpuState, target: QpuState) -> tuple[QpuState, ...]:
    """Return the states to pass through, the target last; empty when nothing is left to do.

    A job that was too quick to be seen running passes through RUNNING all the same. A final state is
    never left, and a state that was reached already is not reached again (a late or repeated report).
    """
    if current == target or current.final or target == QpuState.QUEUED:
        return ()
    if target in FOLLOWS[current]:
        return (target,)
    return (QpuState.RUNNING, target)
