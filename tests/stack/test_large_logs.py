"""A job that prints ten times what is kept of a log: it ends, nobody's memory grows, and what is kept can be read."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest
import requests
from peak_memory import PeakMemory

if TYPE_CHECKING:
    from collections.abc import Callable

    from qonduit import Job
    from stack_control import Stack

MIB = 1024**2
KEPT_BYTES = 50 * MIB
LINES = 500 * 1024
"""Of 1 KiB each, each with its number."""
PROGRAM = f"""
from qiskit_serverless import save_result
for start in range(0, {LINES}, 64):
    print("".join(f"{{number:>9}} {{'x' * 1013}}\\n" for number in range(start, start + 64)), end="")
save_result("printed")
"""
MOST_GROWTH_BYTES = 48 * MIB
"""A tenth of what is printed, less than what is kept: beyond the buffers on its way nothing may be held in memory."""


def kept_on_disk(stack: Stack, job: Job) -> int:
    (folder,) = (stack.data_dir / "storage" / "logs").glob(f"*/{hashlib.sha256(job.job_id.encode()).hexdigest()}")
    return sum(path.stat().st_size for path in folder.iterdir())


@pytest.mark.timeout(1200)
def test_500_mb_of_output_are_bounded_everywhere(stack: Stack, submit: Callable[..., Job]) -> None:
    submit("print('warm')").result(timeout=300)
    memory = {service: PeakMemory(stack.pid(service)) for service in ("worker", "storage", "gateway")}
    job = submit(PROGRAM)
    follower = job.stream_logs()
    assert next(follower), "one who then reads no more, and must not cost memory either"
    assert job.result(timeout=900) == "printed"
    assert kept_on_disk(stack, job) <= KEPT_BYTES + 2 * MIB

    note, *lines = job.logs().splitlines()
    assert note.startswith("[qonduit: ")
    assert "dropped; the limit is 50 MiB" in note
    numbers = [int(line.split(" x")[0]) for line in lines]
    assert numbers == list(range(numbers[0], LINES)), "what is kept is whole, and the newest"
    assert len(numbers) * 1024 > KEPT_BYTES - 2 * MIB
    assert job.logs(tail=2).splitlines() == lines[-2:]

    url = f"http://127.0.0.1:{stack.services['gateway']['ports']['rest_port']}/api/v1/jobs/{job.job_id}/logs/"
    answer = requests.get(url, headers={"Authorization": f"Bearer {stack.profile['token']}"}, timeout=300)
    assert answer.json()["logs"].splitlines() == [note, *lines]

    grown = {service: held.growth_bytes for service, held in memory.items()}
    assert max(grown.values()) < MOST_GROWTH_BYTES, {name: f"{size / MIB:.0f} MiB" for name, size in grown.items()}
