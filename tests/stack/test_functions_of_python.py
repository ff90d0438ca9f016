"""Jobs made of Python functions, as their author sees them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from qonduit import JobFailedError, distribute_qiskit_function
from qonduit.exceptions import InvalidFunctionError

if TYPE_CHECKING:
    from qonduit import ServerlessClient

OFFSET = 40


def beside(number: int) -> int:
    return number + OFFSET


def test_a_function_runs_as_a_job_with_what_it_uses_of_its_module(client: ServerlessClient) -> None:
    @distribute_qiskit_function(client)
    def shifted(numbers: list[int]) -> dict[str, list[int]]:
        """Shift numbers, side by side."""
        from qonduit import distribute_task, get  # noqa: PLC0415 - It runs elsewhere.

        return {"shifted": get(distribute_task(beside).map(numbers))}

    job = shifted(numbers=[1, 2])
    assert job.result(timeout=300) == {"shifted": [41, 42]}
    assert client.get("shifted").description == "Shift numbers, side by side."


def test_what_a_function_raises_is_the_jobs_error(client: ServerlessClient) -> None:
    @distribute_qiskit_function(client, title="divided-by")
    def divide(by: int) -> float:
        return 1 / by

    with pytest.raises(JobFailedError, match="ZeroDivisionError"):
        divide(by=0).result(timeout=300)


def test_arguments_have_names_and_functions_must_be_able_to_travel(client: ServerlessClient) -> None:
    held = threading.Lock()  # What cannot travel.

    @distribute_qiskit_function(client)
    def use(number: int) -> int:
        return number if held else 0

    with pytest.raises(InvalidFunctionError, match="number"):
        use(1)
    with pytest.raises(TypeError, match="number"):
        use(nmber=1)
    with pytest.raises(InvalidFunctionError, match="cannot be carried"):
        use(number=1)
