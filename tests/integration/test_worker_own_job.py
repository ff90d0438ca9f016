"""What a program finds of Qiskit Serverless's environment, and its own job at the address that it names."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from qonduit_service_kit.messages import EventKind, Reason, Stage, ToldError
from scripted_cluster import ScriptedCluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from qonduit_service_kit.testing import PrivateBroker

pytestmark = pytest.mark.asyncio(loop_scope="module")

CALLS = """
import json, os, requests
from qonduit import save_result

HOST, ID = os.environ["ENV_JOB_GATEWAY_HOST"], os.environ["ENV_JOB_ID_GATEWAY"]
HEADERS = {"Authorization": "Bearer " + os.environ["ENV_JOB_GATEWAY_TOKEN"]}

def ask(method, path, headers=HEADERS, **sent):
    answer = requests.request(method, f"{HOST}/api/v1/{path}", headers=headers, timeout=30, **sent)
    return [answer.status_code, answer.json()]
"""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def cluster(broker: PrivateBroker, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ScriptedCluster]:
    async with ScriptedCluster.running(broker.vhost_url("own-job"), tmp_path_factory.mktemp("cluster")) as made:
        yield made


async def test_a_program_finds_what_that_servers_programs_find(cluster: ScriptedCluster) -> None:
    job = await cluster.run(
        "import json, os\nfrom qonduit import save_result\n"
        "assert json.load(open(os.environ['ARGUMENTS_PATH'])) == json.load(open('arguments.serverless')) == {'n': 1}\n"
        "save_result(dict(os.environ))\n",
        arguments='{"n": 1}',
        environment={"ENV_ACCESS_TRIAL": "True", "MINE": "yes"},
    )
    found = await job.result()
    assert {
        "ENV_ACCESS_TRIAL": "False",
        "ENV_JOB_ARGUMENTS": "{}",
        "ENV_JOB_COMPUTE_PROFILE": "",
        "ENV_JOB_FUNCTION_SIZE": "",
        "ENV_JOB_ID_GATEWAY": job.spec.job_id,
        "MINE": "yes",
        "QISKIT_IBM_CHANNEL": "ibm_quantum_platform",
    }.items() <= found.items()
    assert found["ENV_JOB_GATEWAY_TOKEN"] == found["QISKIT_IBM_TOKEN"]
    assert found["QISKIT_IBM_URL"].startswith(found["ENV_JOB_GATEWAY_HOST"] + "/")
    assert found["QISKIT_IBM_INSTANCE"] == found["ENV_JOB_GATEWAY_INSTANCE"]
    assert job.spec.storage_ticket not in json.dumps(found), "what the worker may do is not the program's to have"


@pytest.mark.parametrize(
    ("text", "result", "reason"),
    [
        ('{"x": [1, 2]}', {"x": [1, 2]}, Reason.NONE),
        ("{", None, Reason.RESULT_NOT_SERIALIZABLE),
    ],
)
async def test_a_result_that_a_program_wrote_itself_is_kept(
    cluster: ScriptedCluster, text: str, result: object, reason: Reason
) -> None:
    write = f"import os, sys\nopen(os.environ['RESULTS_PATH'], 'w').write({text!r})\n"
    for end_of_program in ("", "sys.exit()\n"):
        job = await cluster.run(write + end_of_program)
        end = await job.finished()
        assert end.reason is reason, end.text
        if reason is Reason.NONE:
            assert await job.result() == result
        else:
            assert "RESULTS_PATH names, holds no JSON" in end.text


async def test_a_result_that_was_saved_by_a_call_counts_more_than_a_file(cluster: ScriptedCluster) -> None:
    job = await cluster.run(
        "import os\nfrom qonduit import save_result\nsave_result(1)\nopen(os.environ['RESULTS_PATH'], 'w').write('2')\n"
    )
    assert await job.result() == 1


async def test_a_program_asks_for_its_own_job_and_for_no_other(cluster: ScriptedCluster) -> None:
    job = await cluster.run(
        CALLS + "save_result([ask('PATCH', f'jobs/{ID}/sub_status', data={'sub_status': 'OPTIMIZING_HARDWARE'}), "
        "ask('GET', f'jobs/{ID}'), ask('GET', f'jobs/{ID}/', headers={'Authorization': 'Bearer other'}), "
        "ask('GET', f'jobs/{ID}/', headers={}), ask('GET', 'jobs/other/'), ask('GET', 'jobs/'), "
        "ask('GET', f'jobs/{ID}/logs/'), ask('PATCH', f'jobs/{ID}/sub_status/', data={'sub_status': 'SLEEPING'}), "
        "ask('POST', f'jobs/{ID}/runtime_jobs/', json={'runtime_job': 'q1', 'runtime_session': None})])\n",
        provider="lamps",
    )
    changed, own, other_token, no_token, other_job, every_job, logs, wrong, noted = await job.result()
    document = changed[1]["job"]
    assert changed[0] == own[0] == 200
    assert own[1] == document
    assert (document["id"], document["status"], document["sub_status"]) == (
        job.spec.job_id,
        "RUNNING",
        "OPTIMIZING_HARDWARE",
    )
    assert document["program"] == {"title": "test", "provider": "lamps"}
    assert other_token == no_token == [401, {"detail": "Authorization token is not valid."}]
    assert other_job == [404, {"message": "Job [other] not found"}]
    assert every_job[0] == logs[0] == 404
    assert wrong == [400, {"message": "'sub_status' not provided or is not valid"}]
    text = f"RuntimeJob object [q1] created for serverless job id [{job.spec.job_id}]."
    assert noted == [200, {"message": text}]
    stages = [event.stage for event in job.events if event.kind is EventKind.STAGE]
    assert stages == [Stage.OPTIMIZING_FOR_HARDWARE]


async def test_errors_and_results_that_come_by_rest_are_kept(cluster: ScriptedCluster) -> None:
    job = await cluster.run(
        CALLS + "error = {'type': 'ERROR', 'code': 7, 'message': ' sorry\\n', 'exception': 'E'}\n"
        "error['args'] = {'n': float('nan')}\n"
        "del save_result\n"
        "print(ask('POST', f'jobs/{ID}/event/', data=json.dumps(error), "
        "headers=HEADERS | {'Content-Type': 'application/json'}))\n"
        "print(ask('POST', f'jobs/{ID}/event/', json={'type': 'OTHER'}))\n"
        "print(ask('POST', f'jobs/{ID}/event/', data=b'\\xff'))\n"
        "print(ask('POST', f'jobs/{ID}/result/', data={'result': json.dumps({'é': 'a' * 10**6})})[0])\n"
        "print(ask('POST', f'jobs/{ID}/result/', data={'result': 'x' * 9 * 2**20}))\n"
    )
    assert await job.result() == {"é": "a" * 10**6}
    (event,) = [event for event in job.events if event.error is not None]
    assert event.error == ToldError("7", "sorry", "E", '"{\\"n\\": NaN}"'), "what is no JSON to others is a text"
    said = (await job.log()).splitlines()
    assert [line[:5] for line in said] == ["[200,", "[400,", "[400,", "200", "[413,"]
    assert "8,388,608 bytes" in said[-1]
