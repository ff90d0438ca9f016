"""The real client straight at IBM's service, and through sandbox, bus and broker: programs see the same."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from fake_ibm import FakeIbm, Instance
from ibm_world import ibm_world
from qpu_world import finish

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from qonduit_service_kit.testing import PrivateBroker

PROGRAMS = Path(__file__).parent / "programs_to_compare.py"
NAMES = (
    "sampler",
    "estimator",
    "parameter_sweep",
    "a_hundred_qubits",
    "a_thousand_parameter_sets",
    "executor_sampler",
    "executor_estimator",
    "session",
    "batch_of_three",
    "failure_in_a_session",
    "cancelled",
    "tags_and_lists",
    "metrics_and_inputs",
    "deleted",
    "dry_run",
    "wrong_backend",
    "devices",
)
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def seen(
    broker: PrivateBroker, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[dict[str, Any], dict[str, Any]]]:
    """What all programs see: directly, and through everything."""
    folder = tmp_path_factory.mktemp("direct")
    ibm = FakeIbm(Instance(plan="paygo"))
    await ibm.start()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "ignore", str(PROGRAMS)),
        env={"PATH": os.environ["PATH"], "HOME": str(folder), **ibm.environment()},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    directly = (await finish(process)).told
    await ibm.stop()
    async with ibm_world(broker, tmp_path_factory.mktemp("through")) as world:
        sandbox = await world.worker.sandbox()
        through = (await sandbox.run(PROGRAMS.read_text())).told
    yield directly, through


@pytest.mark.parametrize("name", NAMES)
async def test_a_program_sees_the_same(seen: tuple[dict[str, Any], dict[str, Any]], name: str) -> None:
    directly, through = seen
    assert directly[name] == through[name]


async def test_all_programs_are_compared(seen: tuple[dict[str, Any], dict[str, Any]]) -> None:
    assert set(seen[0]) == set(seen[1]) == set(NAMES)
