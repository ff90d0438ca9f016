"""Tasks as a program sees them, against the agent's end of its channel."""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from qonduit.program import executor, pickling, tasks
from qonduit.program.channel import SOCKET_VARIABLE, AgentGoneError, agent
from qonduit_worker.program_channel import ProgramServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from qonduit_worker.program_channel import ProgramSession

PATIENCE_S = 20


class Driver:
    """The agent of a driver whose tasks have their values as soon as they are asked for."""

    def __init__(self, path: Path) -> None:
        self.server = ProgramServer(path)
        self.server.register("tasks_submit", self._submit)
        self.server.register("tasks_waiting", self._waiting)
        self.answers = True
        self.waiting: list[bool] = []
        self.lent = asyncio.Event()

    async def _submit(self, session: ProgramSession, fields: Mapping[str, Any]) -> None:
        session.wants_pushes = True
        for task in fields["tasks"]:
            if self.answers:
                await self.done(task["task_id"])

    async def done(self, task_id: str) -> None:
        await self.server.push("task_done", task_id=task_id, outcome="OK", value=pickling.dumps("value"), text="")

    async def _waiting(self, _: ProgramSession, fields: Mapping[str, Any]) -> None:
        self.waiting.append(fields["waiting"])
        self.lent.set()


@pytest_asyncio.fixture
async def driver(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Driver]:
    with tempfile.TemporaryDirectory() as folder:  # Not pytest's own, whose name is longer than a socket's may be.
        path = Path(folder) / "agent.sock"
        monkeypatch.setenv(SOCKET_VARIABLE, str(path))
        made = Driver(path)
        await made.server.start()
        yield made
        await made.server.stop()
        await asyncio.to_thread(agent().close)
        tasks._tasks.cache_clear()


@tasks.distribute_task
def work() -> str:
    return "value"


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
async def test_a_forked_child_gets_the_values_of_its_own_tasks(driver: Driver) -> None:
    del driver
    assert await asyncio.to_thread(lambda: tasks.get(work())) == "value"
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if tasks.get(work(), timeout=PATIENCE_S) == "value" else 1)
        finally:
            os._exit(2)
    _, status = await asyncio.to_thread(os.waitpid, pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert await asyncio.to_thread(lambda: tasks.get(work())) == "value"


async def test_a_program_that_waits_is_told_when_its_agent_goes(driver: Driver) -> None:
    driver.answers = False
    waiting = asyncio.create_task(asyncio.to_thread(lambda: tasks.get(work())))
    await driver.lent.wait()
    await driver.server.stop()
    with pytest.raises(AgentGoneError):
        await asyncio.wait_for(waiting, PATIENCE_S)


async def test_threads_that_wait_leave_the_agent_with_the_truth(driver: Driver) -> None:
    driver.answers = False
    reference = await asyncio.to_thread(work)

    def wait() -> None:
        for _ in range(10):
            with pytest.raises(TimeoutError):
                tasks.get(reference, timeout=2 * tasks.LEND_CPU_AFTER_S)

    threads = [threading.Thread(target=wait) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join, PATIENCE_S)
    # Each change is told once, in its order: True and False take turns.
    assert driver.waiting == [number % 2 == 0 for number in range(len(driver.waiting))]
    assert driver.waiting[-1] is False


def test_an_error_with_an_enormous_text_still_fits_in_a_frame() -> None:
    text = executor._user_traceback(ValueError("x" * 10**7 + " the end"))
    assert len(text) <= executor.MAX_ERROR_TEXT
    assert "the end" in text
