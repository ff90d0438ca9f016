"""The state diagram as Mermaid text, made from the transition table."""

from __future__ import annotations

from collections import defaultdict

from qonduit_gateway.jobs.model import JobState
from qonduit_gateway.jobs.transitions import TABLE


def mermaid() -> str:
    """Return the diagram: one arrow for each pair of states, with everything that leads along it."""
    lines = ["stateDiagram-v2", "    [*] --> QUEUED: submitted"]
    for state, row in TABLE.items():
        arrows: dict[JobState, list[str]] = defaultdict(list)
        for trigger, target in row.items():
            arrows[target].append(trigger.value)
        lines.extend(f"    {state} --> {target}: {', '.join(names)}" for target, names in arrows.items())
    lines.extend(f"    {state} --> [*]" for state in JobState if state.terminal)
    return "\n".join(lines) + "\n"
