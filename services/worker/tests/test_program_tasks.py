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
from qonduit.program import executor, pickling, task_client, tasks
from qonduit.program.channel import SOCKET_VARIABLE, AgentGoneError, agent
from qonduit_worker.program_channel import ProgramServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from qonduit_worker.program_channel import ProgramSession

PATIENCE_S = 60


class Driver:
    """The agent of a driver whose tasks have their values as soon as they are asked for."""

    def __init__(self, path: Path) -> None:
        self.server = ProgramServer(path)
        self.server.listen("task_function", lambda _, fields: self.functions.append(dict(fields)))
        self.server.listen("tasks_submit", self._submit)
        self.server.listen("tasks_cancel", lambda _, fields: self.canceled.extend(fields["tasks"]))
        self.server.listen("tasks_waiting", self._waiting)
        self.answers = True
        self.functions: list[dict[str, Any]] = []
        self.submitted: list[list[Any]] = []
        self.canceled: list[str] = []
        self.waiting: list[bool] = []
        self.lent = asyncio.Event()
        self._came = asyncio.Event()

    async def has(self, tasks: int) -> None:
        """Wait until so many tasks were submitted."""
        while len(self.submitted) < tasks:
            self._came.clear()
            await asyncio.wait_for(self._came.wait(), PATIENCE_S)

    def _submit(self, session: ProgramSession, fields: Mapping[str, Any]) -> None:
        session.wants_pushes = True
        self.submitted += fields["tasks"]
        self._came.set()
        if self.answers:
            self.done(*(row[0] for row in fields["tasks"]))

    def done(self, *task_ids: str, outcome: str = "OK", value: object = "value", text: str = "") -> None:
        rows = [[task_id, outcome, pickling.dumps(value), "", text] for task_id in task_ids]
        self.server.push("tasks_done", tasks=rows)

    def _waiting(self, _: ProgramSession, fields: Mapping[str, Any]) -> None:
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
        task_client.task_client.cache_clear()


@tasks.distribute_task
def work() -> str:
    return "value"


@tasks.distribute_task(target={"cpu": 2})
def echo(value: object) -> object:
    return value


decoded: list[int] = []


class Noted:
    """Tells when it is decoded; a value of its own each time."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> Any:
        return decode_noted, (self.number,)


def decode_noted(number: int) -> list[int]:
    decoded.append(number)
    return [number]


async def test_values_are_decoded_while_others_are_on_their_way_each_place_its_own(driver: Driver) -> None:
    decoded.clear()
    driver.answers = False
    first, second, third = await asyncio.to_thread(lambda: [work(), work(), work()])
    waiting = asyncio.create_task(asyncio.to_thread(tasks.get, [first, second, third, first]))
    await driver.lent.wait()
    driver.done(third.task_id, value=Noted(3))
    driver.done(first.task_id, value=Noted(1))
    async with asyncio.timeout(PATIENCE_S):
        while decoded != [3, 1]:  # noqa: ASYNC110 - Another thread decodes.
            await asyncio.sleep(0.005)
    assert not waiting.done()
    driver.done(second.task_id, value=Noted(2))
    values = await asyncio.wait_for(waiting, PATIENCE_S)
    assert values == [[1], [2], [3], [1]]
    assert values[0] is not values[3]


async def test_a_task_named_twice_counts_twice_among_those_that_are_enough(driver: Driver) -> None:
    driver.answers = False
    twice, last, never = await asyncio.to_thread(lambda: [work(), work(), work()])
    named = [twice, last, twice, never]
    waiting = asyncio.create_task(asyncio.to_thread(tasks.wait, named, num_returns=3))
    await driver.lent.wait()
    driver.done(last.task_id, value=1)
    driver.done(twice.task_id, value=2)
    done, pending = await asyncio.wait_for(waiting, PATIENCE_S)
    assert (done, pending) == ([twice, last, twice], [never])
    assert await asyncio.to_thread(tasks.wait, named, num_returns=2) == (done, pending), "they were there already"


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
                tasks.get(reference, timeout=2 * task_client.LEND_CPU_AFTER_S)

    threads = [threading.Thread(target=wait) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join, PATIENCE_S)
    while driver.waiting[-1]:  # The last word is on its way.
        driver.lent.clear()
        await asyncio.wait_for(driver.lent.wait(), PATIENCE_S)
    # Each change is told once, in its order: True and False take turns.
    assert driver.waiting == [number % 2 == 0 for number in range(len(driver.waiting))]


async def test_many_calls_define_their_function_once_and_map_sends_few_messages(driver: Driver) -> None:
    values = await asyncio.to_thread(lambda: tasks.get([work() for _ in range(10)] + echo.map(range(1000))))
    assert values == ["value"] * 1010
    assert [function["name"] for function in driver.functions] == ["work", "echo"]
    assert len({row[0] for row in driver.submitted}) == 1010


async def test_references_come_back_in_the_form_they_were_given(driver: Driver) -> None:
    del driver
    given = await asyncio.to_thread(lambda: tasks.get({"one": work(), "more": [work(), (work(),)]}))
    assert given == {"one": "value", "more": ["value", ["value"]]}


async def test_a_call_waits_for_no_value_among_its_arguments_and_names_it_once(driver: Driver) -> None:
    driver.answers = False

    def submit() -> tuple[tasks.TaskReference, tasks.TaskReference]:
        first = echo(1)
        return first, echo([first, {"again": first}])

    first, second = await asyncio.to_thread(submit)
    assert (first.outcome, second.outcome) == (None, None)
    await driver.has(2)
    driver.done(first.task_id, second.task_id)
    assert await asyncio.to_thread(tasks.get, second, timeout=PATIENCE_S) == "value"
    assert driver.submitted[1][3] == [[first.task_id, None, ""]]


async def test_an_input_that_had_ended_is_sent_again_with_its_value(driver: Driver) -> None:
    driver.answers = False
    first = await asyncio.to_thread(echo, 1)
    second = await asyncio.to_thread(echo, first)
    await driver.has(2)
    driver.done(first.task_id)
    driver.server.push("tasks_unknown", tasks=[second.task_id])
    driver.answers = True
    assert await asyncio.to_thread(tasks.get, second, timeout=PATIENCE_S) == "value"
    assert driver.submitted[2][3] == [["", pickling.dumps("value"), ""]]


async def test_who_waits_for_a_call_hears_of_an_input_that_had_failed(driver: Driver) -> None:
    driver.answers = False
    first = await asyncio.to_thread(echo, 1)
    second = await asyncio.to_thread(echo, first)
    waiting = asyncio.create_task(asyncio.to_thread(tasks.get, second))
    await driver.lent.wait()  # From now on it looks only when it is told something.
    driver.done(first.task_id, outcome="ERROR", value=KeyError("lost"), text="the traceback")
    driver.server.push("tasks_unknown", tasks=[second.task_id])
    with pytest.raises(KeyError, match="lost"):
        await asyncio.wait_for(waiting, PATIENCE_S)


async def test_a_call_with_a_failed_task_among_its_arguments_fails_as_that_did(driver: Driver) -> None:
    driver.answers = False
    first = await asyncio.to_thread(echo, 1)
    await driver.has(1)
    driver.done(first.task_id, outcome="ERROR", value=KeyError("lost"), text="the traceback")
    with pytest.raises(KeyError, match="lost"):
        await asyncio.to_thread(tasks.get, first, timeout=PATIENCE_S)
    second = await asyncio.to_thread(echo, first)
    with pytest.raises(KeyError, match="lost") as told:
        await asyncio.to_thread(tasks.get, second, timeout=PATIENCE_S)
    assert "the traceback" in told.value.__notes__[0]


@pytest.mark.parametrize(
    ("outcome", "error"),
    [
        ("CANCELED", tasks.TaskCanceledError),
        ("TIMEOUT", tasks.TaskTimeoutError),
        ("OUT_OF_MEMORY", tasks.TaskOutOfMemoryError),
        ("EXECUTOR_DIED", tasks.TaskLostError),
        ("UNSCHEDULABLE", tasks.TaskUnschedulableError),
        ("REFUSED", tasks.TaskError),
    ],
)
async def test_each_way_to_fail_has_an_exception_with_its_text(
    driver: Driver, outcome: str, error: type[Exception]
) -> None:
    driver.answers = False
    reference = await asyncio.to_thread(work)
    await driver.has(1)
    driver.done(reference.task_id, outcome=outcome, text="what happened")
    with pytest.raises(error, match="what happened"):
        await asyncio.to_thread(tasks.get, reference, timeout=PATIENCE_S)


async def test_a_cancel_names_what_has_not_ended(driver: Driver) -> None:
    driver.answers = False
    first, second = await asyncio.to_thread(lambda: [work(), work()])
    await driver.has(2)
    driver.done(first.task_id)
    await asyncio.to_thread(tasks.get, first, timeout=PATIENCE_S)
    await asyncio.to_thread(tasks.cancel, [first, second])
    driver.done(second.task_id, outcome="CANCELED", text="canceled")
    with pytest.raises(tasks.TaskCanceledError):
        await asyncio.to_thread(tasks.get, second, timeout=PATIENCE_S)
    assert driver.canceled == [second.task_id]


async def test_references_are_awaited_and_gathered(driver: Driver) -> None:
    driver.answers = False
    references = await asyncio.to_thread(lambda: [work() for _ in range(3)])

    async def both() -> list[Any]:
        return await asyncio.gather(*references)

    waiting = asyncio.create_task(both())
    await asyncio.wait_for(driver.lent.wait(), PATIENCE_S)
    driver.done(*(reference.task_id for reference in references))
    assert await asyncio.wait_for(waiting, PATIENCE_S) == ["value"] * 3
    assert driver.waiting[0] is True, "a program that only awaits lends its cpu, too"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"max_retries": -1}, "max_retries"),
        ({"max_retries": 1.5}, "max_retries"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": "1 s"}, "timeout"),
        ({"target": {"cpus": 1}}, "cpus"),
        ({"target": 3}, "dict"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        tasks.distribute_task(**options)


def test_an_error_with_an_enormous_text_still_fits_in_a_frame() -> None:
    text = executor._user_traceback(ValueError("x" * 10**7 + " the end"))
    assert len(text) <= executor.MAX_ERROR_TEXT
    assert "the end" in text
