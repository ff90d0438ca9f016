"""Files in and out of a program's /data, and the ways a program may ask for them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import os
import tarfile
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from qonduit_service_kit.messages import Reason
from qonduit_service_kit.rpc import channel
from qonduit_service_kit.tickets import Ticket
from qonduit_worker.storage import Storage, StorageError
from scripted_cluster import MIB, ScriptedCluster, artifact_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from qonduit_service_kit.testing import PrivateBroker

pytestmark = pytest.mark.asyncio(loop_scope="module")

SPACE = "users/ada"
MAKE_TAR = """
import io, tarfile
def make_tar(path, text):
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo("inner.txt")
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text.encode()))
"""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def cluster(broker: PrivateBroker, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ScriptedCluster]:
    async with ScriptedCluster.running(broker.vhost_url("worker-files"), tmp_path_factory.mktemp("cluster")) as made:
        yield made


async def put(cluster: ScriptedCluster, tmp_path: Path, name: str, text: str) -> None:
    data = artifact_of({"inner.txt": text})
    source = tmp_path / "source"
    source.write_bytes(data)
    await cluster.store().put_file(SPACE, name, hashlib.sha256(data).hexdigest(), source)


async def inner_text(cluster: ScriptedCluster, tmp_path: Path, name: str) -> str:
    target = tmp_path / "target"
    await cluster.store().get_file(SPACE, name, target)
    with tarfile.open(fileobj=io.BytesIO(target.read_bytes())) as tar:
        member = tar.extractfile("inner.txt")
        assert member is not None
        return member.read().decode()


async def names(cluster: ScriptedCluster) -> set[str]:
    return {file.name for file in await cluster.store().list_files(SPACE)}


async def test_a_program_finds_its_users_files_and_its_changes_go_back(
    cluster: ScriptedCluster, tmp_path: Path
) -> None:
    for name in ("kept.tar", "changed.tar", "removed.tar"):
        await put(cluster, tmp_path, name, f"first {name}")
    job = await cluster.run(
        MAKE_TAR + "import os\n"
        "folder = os.environ['DATA_PATH']\n"
        "print(sorted(name for name in os.listdir(folder)))\n"
        "make_tar(folder + '/changed.tar', 'second')\n"
        "make_tar(folder + '/new.tar', 'new')\n"
        "os.remove(folder + '/removed.tar')\n"
    )
    assert (await job.finished()).reason is Reason.NONE
    assert "['changed.tar', 'kept.tar', 'removed.tar']" in await job.log()
    assert {"kept.tar", "changed.tar", "new.tar"} <= await names(cluster)
    assert "removed.tar" not in await names(cluster)
    assert await inner_text(cluster, tmp_path, "changed.tar") == "second"
    assert await inner_text(cluster, tmp_path, "kept.tar") == "first kept.tar"


async def test_what_breaks_the_rules_is_named_in_the_log(cluster: ScriptedCluster) -> None:
    job = await cluster.run(
        "import os\n"
        "folder = os.environ['DATA_PATH']\n"
        "open(folder + '/notes.txt', 'w').write('text')\n"
        "open(folder + '/fake.tar', 'w').write('no tar')\n"
        "os.mkdir(folder + '/deep')\n"
        "os.symlink('/etc/passwd', folder + '/link.tar')\n"
        "os.mkfifo(folder + '/pipe.tar')\n"
    )
    assert (await job.finished()).reason is Reason.NONE
    log = await job.log()
    for name in ("notes.txt", "fake.tar", "deep", "link.tar", "pipe.tar"):
        assert f"[qonduit] the f{'older' if name == 'deep' else 'ile'} {name!r}" in log or f"{name!r} in /data" in log
    assert not {"notes.txt", "fake.tar", "deep", "link.tar", "pipe.tar"} & await names(cluster)


async def test_what_was_refused_is_set_aside_for_a_day(cluster: ScriptedCluster) -> None:
    job = await cluster.run(
        "import os\n"
        "folder = os.environ['DATA_PATH']\n"
        "open(folder + '/hours-of-work.txt', 'w').write('hours of work')\n"
        "os.mkdir(folder + '/deep')\n"
        "open(folder + '/deep/more.txt', 'w').write('more')\n"
        "os.symlink('/etc/passwd', folder + '/link.tar')\n"
    )
    assert (await job.finished()).reason is Reason.NONE
    log = await job.log()
    kept = cluster.worker.folder / "qonduit_worker" / "refused" / job.spec.job_id
    assert f"for 24 hours on the worker's machine, for its operator: {kept}" in log
    assert sorted(path.name for path in kept.iterdir()) == ["deep", "hours-of-work.txt"]
    assert (kept / "hours-of-work.txt").read_text() == "hours of work"
    assert (kept / "deep" / "more.txt").read_text() == "more"
    assert kept.parent.stat().st_mode & 0o077 == 0


async def test_a_program_finds_the_files_that_the_job_named_and_no_others(
    cluster: ScriptedCluster, tmp_path: Path
) -> None:
    for name in ("wanted.tar", "unwanted.tar"):
        await put(cluster, tmp_path, name, name)
    program = "import os\nprint(os.listdir(os.environ['DATA_PATH']))\n"
    job = await cluster.grant(replace(await cluster.spec(program), files=("wanted.tar", "gone-since.tar")))
    assert (await job.finished()).reason is Reason.NONE
    assert "['wanted.tar']" in await job.log()
    none = await cluster.grant(replace(await cluster.spec(program), files=()))
    assert (await none.finished()).reason is Reason.NONE
    assert "[]" in await none.log()
    assert {"wanted.tar", "unwanted.tar"} <= await names(cluster)


async def test_a_program_stores_its_files_before_its_end(cluster: ScriptedCluster, tmp_path: Path) -> None:
    job = await cluster.run(
        MAKE_TAR + "import os, qonduit\n"
        "from qonduit.program import save_result\n"
        "folder = os.environ['DATA_PATH']\n"
        "make_tar(folder + '/early.tar', 'early')\n"
        "open(folder + '/notes.txt', 'w').write('text')\n"
        "refused = qonduit.sync_files()\n"
        "client = qonduit.ServerlessClient()\n"
        "usage = client.file_usage()\n"
        "save_result({'refused': refused, 'names': client.files(), 'usage': [usage.file_count, usage.used_bytes]})\n"
        "os.remove(folder + '/notes.txt')\n"
    )
    result = await job.result()
    assert [text for text in result["refused"] if "notes.txt" in text] == result["refused"] != []
    assert "early.tar" in result["names"]
    assert result["usage"][0] == len(result["names"])
    assert result["usage"][1] > 0
    assert await inner_text(cluster, tmp_path, "early.tar") == "early"
    await job.finished()
    assert "notes.txt" not in await job.log()


async def test_files_of_a_killed_program_are_not_kept(cluster: ScriptedCluster) -> None:
    job = await cluster.run(
        MAKE_TAR + "import os, signal\n"
        "make_tar(os.environ['DATA_PATH'] + '/half.tar', 'half')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert (await job.finished()).reason is Reason.KILLED
    assert "'half.tar' in /data was not kept" in await job.log()
    assert "half.tar" not in await names(cluster)


async def test_a_program_uploads_lists_downloads_and_deletes(cluster: ScriptedCluster, tmp_path: Path) -> None:
    job = await cluster.run(
        MAKE_TAR + "import os\n"
        "from qonduit.program import save_result\n"
        "from qiskit_serverless import IBMServerlessClient\n"
        "client = IBMServerlessClient(token='any')\n"
        "make_tar('/tmp/sent.tar', 'sent by the program')\n"
        "client.file_upload('/tmp/sent.tar')\n"
        "names = client.files()\n"
        "assert os.path.exists(os.environ['DATA_PATH'] + '/sent.tar')\n"
        "import tarfile\n"
        "with tarfile.open(client.file_download('sent.tar')) as tar:\n"
        "    text = tar.extractfile('inner.txt').read().decode()\n"
        "make_tar('/tmp/gone.tar', 'x')\n"
        "client.file_upload('/tmp/gone.tar')\n"
        "client.file_delete('gone.tar')\n"
        "save_result({'names': names, 'text': text})\n"
    )
    result = await job.result()
    assert "sent.tar" in result["names"]
    assert result["text"] == "sent by the program"
    assert await inner_text(cluster, tmp_path, "sent.tar") == "sent by the program"
    assert "gone.tar" not in await names(cluster)


TASKS = (
    MAKE_TAR
    + f"""
import os, qonduit
from qonduit import ServerlessClient, distribute_task, get, save_result
folder = os.environ["DATA_PATH"]

def task(function):
    return distribute_task(target={{"cpu": 1, "mem": {128 * MIB}}})(function)
"""
)


async def test_tasks_work_with_files_as_their_program_does(cluster: ScriptedCluster, tmp_path: Path) -> None:
    for name in ("before.tar", "unwanted.tar"):
        await put(cluster, tmp_path, name, "first")
    job = await cluster.run(
        TASKS
        + """
@task
def work():
    client = ServerlessClient()
    make_tar("/tmp/task-sent.tar", "sent by a task")
    client.file_upload("/tmp/task-sent.tar")
    client.file_delete("unwanted.tar")
    make_tar(folder + "/task-synced.tar", "synced by a task")
    make_tar(folder + "/before.tar", "second")
    open(folder + "/notes.txt", "w").write("text")
    refused = qonduit.sync_files()
    os.remove(folder + "/notes.txt")
    return client.files(), refused, client.file_usage().file_count, os.path.exists(folder + "/task-sent.tar")

save_result(get(work()))
"""
    )
    await job.grant_executors(1)
    found, refused, count, shown = await job.result()
    await job.finished()
    there = await names(cluster)
    assert there == set(found)
    assert count == len(found)
    assert shown
    assert {"task-sent.tar", "task-synced.tar"} <= there
    assert "unwanted.tar" not in there
    assert [text for text in refused if "notes.txt" in text] == refused != []
    assert await inner_text(cluster, tmp_path, "before.tar") == "second"
    assert "leaves" not in await job.log()


async def test_what_a_task_leaves_in_its_data_folder_is_named_once_and_not_stored(cluster: ScriptedCluster) -> None:
    job = await cluster.run(
        TASKS
        + """
@task
def leave(name):
    make_tar(f"{folder}/{name}", "of a task")

get([leave("left-a.tar"), leave("left-b.tar"), leave("left-b.tar")])
"""
    )
    await job.grant_executors(1)
    assert (await job.finished()).reason is Reason.NONE
    said = [line.partition(",")[0] for line in (await job.log()).splitlines() if "[qonduit]" in line]
    assert said == [
        "[task 0 leave] [qonduit] in /data this task leaves 'left-a.tar'",
        "[task 1 leave] [qonduit] in /data this task leaves 'left-b.tar'",
    ]
    assert not {"left-a.tar", "left-b.tar"} & await names(cluster)


async def test_a_program_cannot_change_what_other_jobs_get(cluster: ScriptedCluster, tmp_path: Path) -> None:
    await put(cluster, tmp_path, "shared.tar", "original")
    spoil = await cluster.run(
        "import os, signal\n"
        "with open(os.environ['DATA_PATH'] + '/shared.tar', 'r+b') as file: file.write(b'spoiled')\n"
        "with open('main.py', 'w') as file: file.write('spoiled')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    await spoil.finished()
    job = await cluster.run(
        "import os, tarfile\n"
        "with tarfile.open(os.environ['DATA_PATH'] + '/shared.tar') as tar:\n"
        "    print(tar.extractfile('inner.txt').read().decode())\n"
    )
    end = await job.finished()
    assert (await job.log(), end.reason, end.text) == ("original\n", Reason.NONE, "")


@pytest.mark.parametrize(
    "member",
    [
        tarfile.TarInfo("../outside.txt"),
        tarfile.TarInfo("/absolute.txt"),
        *(_link for _link in (tarfile.TarInfo("link"), tarfile.TarInfo("hard"), tarfile.TarInfo("device"))),
    ],
    ids=lambda member: member.name,
)
async def test_an_artifact_that_reaches_outside_is_refused(cluster: ScriptedCluster, member: tarfile.TarInfo) -> None:
    member.type = {"link": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE, "device": tarfile.CHRTYPE}.get(
        member.name, tarfile.REGTYPE
    )
    member.linkname = "/etc/passwd"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(member)
    job = await cluster.run("", artifact_digest=await cluster.put(buffer.getvalue()))
    end = await job.finished()
    assert end.reason is Reason.INTERNAL
    assert repr(member.name) in end.text


class BreakingWire:
    """The way to storage; it breaks once, after so many bytes, and counts all that are sent."""

    def __init__(self, port: str, *, breaks_after: int) -> None:
        self._port = port
        self._breaks_after = breaks_after
        self.sent_bytes = 0

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_storage, to_storage = await asyncio.open_connection("127.0.0.1", int(self._port))
        back = asyncio.create_task(self._pass_back(from_storage, writer))
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                unbroken = self.sent_bytes < self._breaks_after
                self.sent_bytes += len(data)
                to_storage.write(data)
                await to_storage.drain()
                if unbroken and self.sent_bytes >= self._breaks_after:
                    break
        for end in (to_storage, writer):
            end.close()
        await back

    async def _pass_back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    @contextlib.asynccontextmanager
    async def storage(self, cluster: ScriptedCluster, *, patience_s: float) -> AsyncIterator[Storage]:
        """Storage by this wire."""
        server = await asyncio.start_server(self.connect, "127.0.0.1", 0)
        ticket = cluster.signer.sign(Ticket.lasting("ada", 3600, service="gateway"))
        async with server, channel(f"127.0.0.1:{server.sockets[0].getsockname()[1]}") as opened:
            yield Storage(opened, ticket, patience_s=patience_s)


def large_tar(path: Path) -> str:
    """Write a tar of 32 MiB that nothing makes smaller; return its digest."""
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("inner.bin")
        member.size = 32 * MIB
        tar.addfile(member, io.BytesIO(os.urandom(member.size)))
    return hashlib.sha256(path.read_bytes()).hexdigest()


async def test_a_large_upload_that_breaks_off_goes_on_where_it_stopped(
    cluster: ScriptedCluster, tmp_path: Path
) -> None:
    digest = large_tar(tmp_path / "large.tar")
    wire = BreakingWire(cluster.storage.settings["LISTEN_PORT"], breaks_after=24 * MIB)
    async with wire.storage(cluster, patience_s=60) as storage:
        stored = await storage.put_file(SPACE, "broken-off.tar", digest, tmp_path / "large.tar")
        assert (await storage.stat_file(SPACE, "broken-off.tar")).digest == stored.digest == digest
    assert wire.sent_bytes < 40 * MIB  # All of it twice would be 56.


async def test_an_upload_whose_beginning_was_damaged_meanwhile_is_sent_anew(
    cluster: ScriptedCluster, tmp_path: Path
) -> None:
    digest = large_tar(tmp_path / "large.tar")
    wire = BreakingWire(cluster.storage.settings["LISTEN_PORT"], breaks_after=24 * MIB)
    async with wire.storage(cluster, patience_s=0) as storage:
        with pytest.raises(StorageError):
            await storage.put_file(SPACE, "damaged.tar", digest, tmp_path / "large.tar")
    partial = cluster.folder / "qonduit_storage" / "partial"
    async with asyncio.timeout(60):
        while not any(partial.iterdir()):  # noqa: ASYNC110 - Storage hears of it, and nothing can be awaited.
            await asyncio.sleep(0.01)
    (kept,) = partial.iterdir()
    with kept.open("r+b") as file:
        file.seek(4 * MIB)
        file.write(b"what a power cut left")
    await cluster.store().put_file(SPACE, "damaged.tar", digest, tmp_path / "large.tar")
    assert (await cluster.store().stat_file(SPACE, "damaged.tar")).digest == digest
