"""Programs of providers' functions on a real worker: whose files they find, and who reads what they print."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import re
import tarfile
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from peak_memory import PeakMemory
from qonduit_service_kit import spaces
from qonduit_service_kit.messages import Reason, TaskDemand
from scripted_cluster import MIB, ScriptedCluster, artifact_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from qonduit_service_kit.testing import PrivateBroker

pytestmark = pytest.mark.asyncio(loop_scope="module")

USER_SPACE = spaces.of_user_at("acme", "solver", "ada")
PROVIDER_SPACE = spaces.of_provider("acme", "solver")
PROVIDED: dict[str, Any] = {"provider": "acme", "space": USER_SPACE, "provider_space": PROVIDER_SPACE}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def cluster(broker: PrivateBroker, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ScriptedCluster]:
    url = broker.vhost_url("worker-providers")
    preload = '["qonduit.program.executor", "qonduit.program.runner", "qonduit.job"]'
    folder = tmp_path_factory.mktemp("cluster")
    async with ScriptedCluster.running(url, folder, PRELOAD=preload) as made:
        for space in (spaces.of_user("ada"), USER_SPACE, PROVIDER_SPACE):
            await put(made, folder, space, f"{space.partition('/')[0]}.tar", space)
        yield made


async def put(cluster: ScriptedCluster, folder: Path, space: str, name: str, text: str) -> None:
    data = artifact_of({"inner.txt": text})
    source = folder / "source"
    source.write_bytes(data)
    await cluster.store().put_file(space, name, hashlib.sha256(data).hexdigest(), source)


async def names(cluster: ScriptedCluster, space: str) -> list[str]:
    return [file.name for file in await cluster.store().list_files(space)]


# --- Files -------------------------------------------------------------------------------------


LOOK = """
import json, os, tarfile
from qonduit.program import save_result
def read(path):
    with tarfile.open(path) as tar:
        return tar.extractfile("inner.txt").read().decode()
def tried(act):
    try:
        act()
        return "done"
    except OSError as error:
        return type(error).__name__ + " " + os.strerror(error.errno)
"""
ACTS = """
model = "/function_data/providers.tar"
acts = {
    "write": lambda: open(model, "r+b"),
    "truncate": lambda: os.truncate(model, 0),
    "make": lambda: open("/function_data/new.tar", "w"),
    "remove": lambda: os.remove(model),
    "rename": lambda: os.rename(model, "/data/mine.tar"),
    "link": lambda: os.link(model, "/data/mine.tar"),
    "mode": lambda: os.chmod(model, 0o777),
    "folder": lambda: os.rmdir("/function_data"),
}
"""


async def test_a_providers_program_finds_the_files_of_its_user_there_and_of_its_provider(
    cluster: ScriptedCluster,
) -> None:
    job = await cluster.run(
        LOOK + "import shutil\n"
        "shutil.copy('/function_data/providers.tar', '/data/from-provider.tar')\n"
        "os.remove('/data/functions.tar')\n"
        "save_result([read(os.environ['FUNCTION_DATA_PATH'] + '/providers.tar'), os.environ['FUNCTION_DATA_PATH'],\n"
        "             os.listdir('/data'), os.listdir('/function_data')])\n",
        **PROVIDED,
    )
    assert await job.result() == [PROVIDER_SPACE, "/function_data", ["from-provider.tar"], ["providers.tar"]]
    assert await names(cluster, USER_SPACE) == ["from-provider.tar"]
    assert await names(cluster, PROVIDER_SPACE) == ["providers.tar"]
    assert await names(cluster, spaces.of_user("ada")) == ["users.tar"]


async def test_a_program_cannot_change_its_providers_files(cluster: ScriptedCluster) -> None:
    job = await cluster.run(
        LOOK + ACTS + "found = {name: tried(act) for name, act in acts.items()}\nsave_result([found, read(model)])\n",
        **PROVIDED,
    )
    found, text = await job.result()
    assert text == PROVIDER_SPACE
    refused = re.compile("(OSError|PermissionError|NotADirectoryError) ")
    assert [name for name, what in found.items() if not refused.match(what)] == [], found
    assert {found[name] for name in ("write", "truncate", "make", "remove", "mode")} <= {
        "OSError Read-only file system",
        "PermissionError Permission denied",
    }, found
    assert await names(cluster, PROVIDER_SPACE) == ["providers.tar"]


async def test_other_programs_see_neither_and_know_of_no_trial(cluster: ScriptedCluster) -> None:
    look = LOOK + (
        "save_result([os.listdir('/data'), os.path.exists('/function_data'), 'FUNCTION_DATA_PATH' in os.environ,\n"
        "             os.environ['ENV_ACCESS_TRIAL']])\n"
    )
    own = await cluster.run(look)
    assert await own.result() == [["users.tar"], False, False, "False"]
    trial = await cluster.run(look, **PROVIDED, trial=True)
    assert (await trial.result())[1:] == [True, True, "True"]


async def test_executors_find_the_same_files_and_each_crosses_once(cluster: ScriptedCluster, tmp_path: Path) -> None:
    await put(cluster, tmp_path, PROVIDER_SPACE, "large.tar", "large" * 200_000)
    served = await cluster.transferred("served", "file")
    job = await cluster.run(
        LOOK + "from qiskit_serverless import distribute_task, get\n"
        "@distribute_task()\n"
        "def look(number):\n"
        "    spoiled = tried(lambda: open('/function_data/large.tar', 'r+b'))\n"
        "    return [sorted(os.listdir('/function_data')), os.path.exists('/data/users.tar'), spoiled,\n"
        "            os.environ['ENV_ACCESS_TRIAL']]\n"
        "save_result(get([look(number) for number in range(6)]))\n",
        **PROVIDED,
        trial=True,
    )
    await job.grant_executors(3)
    looks = await job.result()
    assert {json.dumps(look) for look in looks} == {
        json.dumps([["large.tar", "providers.tar"], False, "OSError Read-only file system", "True"])
    }
    demand = next(demand for demand in cluster.of(TaskDemand) if demand.job_id == job.spec.job_id)
    assert (demand.space, demand.provider_space) == (USER_SPACE, PROVIDER_SPACE)
    assert await cluster.transferred("served", "file") - served < 2 * 1_000_000
    await cluster.store().delete_file(PROVIDER_SPACE, "large.tar")


async def test_several_programs_at_once_share_one_transfer(cluster: ScriptedCluster, tmp_path: Path) -> None:
    await put(cluster, tmp_path, PROVIDER_SPACE, "shared.tar", "shared" * 500_000)
    served = await cluster.transferred("served", "file")
    spec = [await cluster.spec("import os\nprint(os.listdir('/function_data'))\n", **PROVIDED) for _ in range(4)]
    jobs = await asyncio.gather(*map(cluster.grant, spec))
    for job in jobs:
        assert (end := await job.finished()).reason is Reason.NONE, end.text
        assert "shared.tar" in (await job.both_logs())[1]
    assert await cluster.transferred("served", "file") - served < 2 * 3_000_000
    await cluster.store().delete_file(PROVIDER_SPACE, "shared.tar")


# --- Logs --------------------------------------------------------------------------------------


async def test_lines_go_to_the_log_that_their_tag_says(cluster: ScriptedCluster) -> None:
    job = await cluster.run(
        "import os, subprocess, sys\n"
        "print('[PUBLIC] for the user')\n"
        "print('plain')\n"
        "print('[private] for the provider', file=sys.stderr)\n"
        "print('[Public] an error for the user', file=sys.stderr)\n"
        "subprocess.run(['/bin/echo', '[PUBLIC] of a child'])\n"
        "for part in (b'[PUB', b'LIC] in par', b'ts\\n'):\n    os.write(1, part)\n"
        "open(os.environ['DATA_PATH'] + '/notes.txt', 'w').write('text')\n"
        "print('[PUBLIC] no end', end='')\n",
        **PROVIDED,
    )
    assert (await job.finished()).reason is Reason.NONE
    user, provider = await job.both_logs()
    lines = user.splitlines()
    assert lines[:4] == ["for the user", "an error for the user", "of a child", "in parts"]
    assert lines[4].startswith("no end[qonduit] the file 'notes.txt' in /data was not kept")
    assert provider.splitlines()[:2] == ["plain", "for the provider"]
    assert "[qonduit] the file 'notes.txt'" in provider.splitlines()[2]


async def test_a_traceback_is_the_providers(cluster: ScriptedCluster) -> None:
    job = await cluster.run("print('[PUBLIC] begun')\nsecret_formula = 1 / 0\n", **PROVIDED)
    assert (await job.finished()).reason is Reason.PROGRAM_ERROR
    user, provider = await job.both_logs()
    assert user == "begun\n"
    assert "secret_formula" in provider


async def test_what_an_artifact_holds_is_named_to_the_provider_alone(cluster: ScriptedCluster) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        link = tarfile.TarInfo("secret_formula.py")
        link.type, link.linkname = tarfile.SYMTYPE, "main.py"
        tar.addfile(link)
    artifact = await cluster.put(buffer.getvalue())
    end = await (job := await cluster.run("", artifact_digest=artifact, **PROVIDED)).finished()
    assert end.reason is Reason.INTERNAL
    assert end.text == (
        f"The function failed. Its provider can see why: tell them the id of this job, {job.spec.job_id}."
    )
    user, provider = await job.both_logs()
    assert user == ""
    assert "member 'secret_formula.py' is neither a file nor a folder" in provider


async def test_own_functions_keep_one_log_as_it_was_printed(cluster: ScriptedCluster) -> None:
    job = await cluster.run("print('[PUBLIC] one')\nprint('[PRIVATE] two')\nprint('three', end='')\n")
    await job.finished()
    assert await job.log() == "[PUBLIC] one\n[PRIVATE] two\nthree"
    assert await cluster.read_log(spaces.provider_log(job.spec.job_id)) == ""


async def test_tasks_lines_have_their_task_before_them_in_both_logs(cluster: ScriptedCluster) -> None:
    job = await cluster.run(
        "from qiskit_serverless import distribute_task, get\n"
        "@distribute_task()\n"
        "def work(number):\n"
        "    print(f'[PUBLIC] {number} seen')\n"
        "    print(f'{number} hidden')\n"
        "    print('[PUBLIC] ' + 'y' * 50_000)\n"
        "    print('z' * 50_000)\n"
        "get([work(number) for number in range(4)])\n",
        **PROVIDED,
    )
    await job.grant_executors(2)
    assert (await job.finished()).reason is Reason.NONE
    user, provider = await job.both_logs()
    task = re.compile(r"\[task (\d) work\] (.*)")
    seen = [task.fullmatch(line) for line in user.splitlines()]
    hidden = [task.fullmatch(line) for line in provider.splitlines()]
    assert all(seen)
    assert all(hidden)
    assert {line[1]: line[2] for line in seen if line and "seen" in line[2]} == {str(n): f"{n} seen" for n in range(4)}
    assert {line[2] for line in hidden if line and "hidden" in line[2]} == {f"{n} hidden" for n in range(4)}
    assert user.count("y") == 4 * 50_000
    assert provider.count("z") == 4 * 50_000
    assert "PUBLIC" not in user + provider


async def test_both_logs_go_on_where_they_were_when_storage_was_away(cluster: ScriptedCluster) -> None:
    job = await cluster.run(
        "import os, time\n"
        "for number in range(40):\n"
        "    print(f'[PUBLIC] {number}')\n"
        "    print(f'p{number}')\n"
        "    while number == 3 and not os.path.exists('go'): time.sleep(0.01)\n",
        **PROVIDED,
    )
    await job.logged("3\n")
    cluster.storage.kill()
    cluster.let_go()
    await cluster.storage.start()
    assert (await job.finished()).reason is Reason.NONE
    user, provider = await job.both_logs()
    assert user.split() == [str(number) for number in range(40)]
    assert provider.split() == [f"p{number}" for number in range(40)]


async def test_a_second_attempt_goes_on_in_both_logs(cluster: ScriptedCluster) -> None:
    program = "print('[PUBLIC] seen')\nprint('hidden')\n"
    first = await cluster.run(program, **PROVIDED)
    await first.finished()
    await first.both_logs()
    again = await cluster.spec(program, job_id=first.spec.job_id, attempt=2, **PROVIDED)
    job = await cluster.grant(again)
    await job.finished()
    assert await job.both_logs() == ("seen\n" * 2, "hidden\n" * 2)


async def test_much_output_costs_no_memory_in_either_log(cluster: ScriptedCluster) -> None:
    processes = [service.process for service in (cluster.worker, cluster.storage)]
    memory = [PeakMemory(process.pid) for process in processes if process is not None]
    job = await cluster.run(
        "lines = ('[PUBLIC] ' + 'u' * 1014 + '\\n' + 'p' * 1023 + '\\n') * 32\n"
        "for _ in range(120 * 16): print(lines, end='')\n"
        "print('[PUBLIC] the last line')\nprint('of both')\n",
        **PROVIDED,
    )
    assert (await job.finished()).reason is Reason.NONE
    user, provider = await job.both_logs()
    assert (user.splitlines()[-1], provider.splitlines()[-1]) == ("the last line", "of both")
    for log, letter in ((user, "u"), (provider, "p")):
        note, *lines = log.splitlines()[:-1]
        assert "dropped; the limit is 50 MiB" in note
        assert {line.strip(letter) for line in lines} == {""}
        assert 48 * MIB < len(log) < 52 * MIB
    assert max(one.growth_bytes for one in memory) < 32 * MIB
