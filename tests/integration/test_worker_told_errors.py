"""What programs tell their users of errors, and what users get to read of a provider's failure, on a real worker."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from qonduit_service_kit.messages import EventKind, JobEvent, Reason, Stage, ToldError
from scripted_cluster import ScriptedCluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from qonduit_service_kit.testing import PrivateBroker
    from scripted_cluster import Job

pytestmark = pytest.mark.asyncio(loop_scope="module")
TOLD = ToldError("E42", "the lamp is broken", "ServerlessError", '{"lamp": 7}')
SECRET = "in the provider's own words"
RAISES = (
    "from qiskit_serverless import ServerlessError\n"
    f"def secret():\n    raise ServerlessError('E42', 'the lamp is broken', {{'lamp': 7}})  # {SECRET}\n"
)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def cluster(broker: PrivateBroker, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ScriptedCluster]:
    async with ScriptedCluster.running(broker.vhost_url("told-errors"), tmp_path_factory.mktemp("cluster")) as made:
        yield made


def told(job: Job) -> list[JobEvent]:
    """Return the events that carry what a program told and went on after."""
    return [event for event in job.events if event.kind is EventKind.STAGE and event.error is not None]


async def test_a_program_tells_errors_at_its_stage_and_goes_on(cluster: ScriptedCluster) -> None:
    job = await cluster.run(
        "from qonduit import save_result, send_error, update_status\n"
        "first = send_error(7, '  the lamp flickers\\n', 'Warning', {'lamp': [7, None]})\n"
        "update_status('MAPPING')\n"
        "save_result([first, send_error('B', 'x' * 5000 + '\\0', 'E' * 300, ['y' * 5000])])\n"
    )
    assert await job.result() == [True, True]
    first, second = told(job)
    assert first.error == ToldError("7", "the lamp flickers", "Warning", '{"lamp": [7, null]}')
    assert (first.stage, second.stage) == (Stage.NONE, Stage.MAPPING)
    assert second.error is not None
    assert [len(second.error.message), len(second.error.exception)] == [4000, 200]
    assert second.error.message.endswith("x [...]")
    assert second.error.args.startswith('"[\\"yyy')
    assert len(second.error.args) <= 4000
    assert (await job.finished()).error is None


async def test_args_that_are_nested_too_deep_for_others_to_read_are_told_as_text(cluster: ScriptedCluster) -> None:
    job = await cluster.run(
        "from qonduit import send_error\n"
        "for depth in (50, 51, 900):\n"
        "    nested = []\n"
        "    for _ in range(depth - 1): nested = [nested]\n"
        "    send_error(1, 'm', 'E', nested)\n"
    )
    assert (await job.finished()).reason is Reason.NONE
    found = [json.loads(event.error.args) for event in told(job) if event.error is not None]
    assert [type(args) for args in found] == [list, str, str]
    assert found[2] == "[" * 900 + "]" * 900


async def test_what_json_does_not_hold_is_refused_where_it_is_said(cluster: ScriptedCluster) -> None:
    job = await cluster.run("from qonduit import send_error\nsend_error(1, 'm', 'E', {'at': {1}})\n")
    end = await job.finished()
    assert end.text.endswith("TypeError: Object of type set is not JSON serializable\n")


async def test_a_hundred_errors_are_kept_and_the_program_hears_of_it(cluster: ScriptedCluster) -> None:
    job = await cluster.run(
        "from qonduit import save_result, send_error\n"
        "save_result([send_error(n, f'error {n}', 'E') for n in range(102)].count(True))\n"
    )
    assert await job.result() == 100
    assert len(told(job)) == 100
    log = await job.log()
    assert log.count("a program tells at most 100 errors") == 1
    assert "ERROR: Error 101: error 101" in log


async def test_an_exception_for_users_is_the_jobs_error_beside_its_traceback(cluster: ScriptedCluster) -> None:
    job = await cluster.run(f"{RAISES}secret()\n")
    end = await job.finished()
    assert (end.reason, end.error, told(job)) == (Reason.PROGRAM_ERROR, TOLD, [])
    assert SECRET in end.text
    assert end.text.endswith("[E42] the lamp is broken\n{'lamp': 7}\n")


@pytest.mark.parametrize(
    ("program", "text", "error"),
    [
        ("secret()", '[E42] the lamp is broken\n{"lamp": 7}', TOLD),
        (
            "from qonduit import send_error\nsend_error(3, 'sorry', 'E')\n1 / 0",
            "[3] sorry",
            ToldError("3", "sorry", "E"),
        ),
        ("1 / 0", None, None),
        ("import sys\nsys.exit(5)", None, None),
        ("from qonduit import save_result\nsave_result(secret)", None, None),
    ],
    ids=["raised for users", "told before", "raised for nobody", "a code", "a result that is none"],
)
async def test_users_of_a_providers_function_read_what_it_tells_them_and_no_traceback(
    cluster: ScriptedCluster, program: str, text: str | None, error: ToldError | None
) -> None:
    job = await cluster.run(f"{RAISES}{program}\n", provider="lamps")
    end = await job.finished()
    nothing = f"The function failed. Its provider can see why: tell them the id of this job, {job.spec.job_id}."
    assert (end.text, end.error) == (text or nothing, error)


@pytest.mark.parametrize(
    ("program", "more", "why"),
    [
        ("1 / 0", {}, "ZeroDivisionError: division by zero\n"),
        ("import sys\nsys.exit(5)", {}, "The program exited with code 5; its log may say why.\n"),
        ("", {"dependencies": ("no-such==1",)}, "The environment of the function could not be built from no-such==1."),
    ],
    ids=["an exception", "a code", "no environment"],
)
async def test_why_a_providers_function_failed_is_in_what_it_printed_once(
    cluster: ScriptedCluster, program: str, more: dict[str, Any], why: str
) -> None:
    job = await cluster.run(program, provider="lamps", **more)
    await job.finished()
    of_user, of_provider = await job.both_logs()
    assert (of_user.count(why), of_provider.count(why)) == (0, 1)


async def test_the_system_s_own_words_reach_the_users_of_a_providers_function(cluster: ScriptedCluster) -> None:
    job = await cluster.run("import time\ntime.sleep(600)\n", provider="lamps", time_limit_s=0.5)
    end = await job.finished()
    assert end.reason is Reason.TIMEOUT
    assert "0.5 s" in end.text


RUNNER = """
from qiskit_serverless import {imported}

class Runner:
    def __init__(self):
        self.factor = 2

    def run(self, arguments):
        {body}
"""


@pytest.mark.parametrize(
    ("imported", "body", "result"),
    [
        (
            "is_trial",
            "return {'twice': self.factor * arguments['n'], 'trial': is_trial()}",
            {"twice": 42, "trial": True},
        ),
        ("save_result", "save_result('by itself'); return 'dropped'", "by itself"),
        ("save_result", "import os; open(os.environ['RESULTS_PATH'], 'w').write('2'); return 'dropped'", 2),
        ("save_result", "pass", None),
    ],
    ids=["returns", "saves", "writes", "neither"],
)
async def test_a_runner_is_run_and_what_it_returns_is_the_result(
    cluster: ScriptedCluster, imported: str, body: str, result: Any
) -> None:
    program = RUNNER.format(imported=imported, body=body)
    job = await cluster.run(program, arguments='{"n": 21}', provider="lamps", trial=True)
    assert await job.result() == result


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("raise ServerlessError('E42', 'the lamp is broken', {'lamp': 7})", TOLD),
        ("arguments['lamp']", ToldError("1", "KeyError: 'lamp'", "KeyError")),
    ],
)
async def test_what_a_runner_raises_is_told_its_users(cluster: ScriptedCluster, body: str, error: ToldError) -> None:
    job = await cluster.run(RUNNER.format(imported="ServerlessError", body=body), provider="lamps")
    end = await job.finished()
    assert (end.reason, end.error) == (Reason.PROGRAM_ERROR, error)
    assert "Traceback" not in end.text
    of_user, of_provider = await job.both_logs()
    assert "Traceback" not in of_user
    assert "Traceback" in of_provider
    assert "provider_runner.py" not in of_provider
