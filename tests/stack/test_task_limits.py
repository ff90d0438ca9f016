"""Tasks that together would be more than their job may have."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from qonduit import Job, ServerlessClient
    from stack_control import Stack

MIB = 2**20


def test_tasks_that_wait_for_tasks_beyond_the_job_s_memory_are_told_so(
    stack: Stack, client: ServerlessClient, submit_to: Callable[..., Job]
) -> None:
    token = client.cluster.add_user("narrow")
    client.cluster.set_limit("narrow", mem_bytes=700 * MIB)
    text = (
        "from qonduit import distribute_task, get, save_result\n"
        "from qonduit.program.task_errors import TaskUnschedulableError\n"
        "@distribute_task(target={'cpu': 0.5, 'mem': 300 * 2**20})\ndef small(n):\n    return n + 1\n"
        "@distribute_task(target={'cpu': 0.5, 'mem': 400 * 2**20})\ndef twice(n):\n"
        "    return get(small(get(small(n))))\n"
        "@distribute_task(target={'cpu': 0.5, 'mem': 400 * 2**20})\ndef nests(n):\n    return get(twice(n))\n"
        "fits = get(twice(1))\n"
        "try:\n    get(nests(1))\n    text = 'it ran'\nexcept TaskUnschedulableError as error:\n    text = str(error)\n"
        "save_result({'fits': fits, 'text': text, 'after': get(twice(5))})\n"
    )
    job = submit_to(stack.client(token=token), text)
    result = job.result(timeout=300)
    assert result["fits"] == 3
    assert "it cannot start: all executors of this job wait inside tasks" in result["text"]
    assert "0.683594 GiB" in result["text"]
    assert result["after"] == 7
