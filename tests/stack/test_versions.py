"""Functions and their versions, files and their limits, large values: as a user sees them, on a whole stack."""

from __future__ import annotations

import json
import os
import tarfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from qonduit import Configuration, QiskitFunction
from qonduit.exceptions import ConflictError, InvalidRequestError, NotFoundError, QuotaExceededError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from qonduit import Job, RunnableQiskitFunction, ServerlessClient
    from stack_control import Stack

SAY = "from qonduit import save_result\nsave_result({said!r})\n"


def upload(client: ServerlessClient, folder: Path, title: str, said: str, **spec: Any) -> RunnableQiskitFunction:
    (folder / "program.py").write_text(SAY.format(said=said))
    return client.upload(QiskitFunction(title=title, entrypoint="program.py", working_dir=str(folder), **spec))


def test_aliases_rollback_and_diff(stack: Stack, client: ServerlessClient, tmp_path: Path) -> None:
    (tmp_path / "gone.txt").write_text("gone")
    first = upload(client, tmp_path, "versions", "first")
    first.set_alias("stable")
    (tmp_path / "gone.txt").unlink()
    (tmp_path / "new.txt").write_text("new")
    second = upload(client, tmp_path, "versions", "second")
    assert client.run("versions").result(timeout=300) == "second"
    assert client.run("versions@stable").result(timeout=300) == "first"
    assert client.get("versions@stable").run().result(timeout=300) == "first"
    assert client.run(f"versions@{first.version[:8]}").result(timeout=300) == "first"
    assert [version.aliases for version in first.versions()] == [("latest",), ("stable",)]

    found = first.diff(second)
    assert [file.path for file in found.added] == ["new.txt"]
    assert [file.path for file in found.removed] == ["gone.txt"]
    assert [after.path for _, after in found.changed] == ["program.py"]
    assert first.diff("latest") == first.diff(second.version[:8]) == found
    assert not first.diff("stable").changed
    with pytest.raises(InvalidRequestError, match="latest, stable"):
        first.diff("newest")
    told = stack.qonduit("functions", "diff", "versions", "stable").stdout
    assert [line.split()[:2] for line in told.splitlines()[1:]] == [
        ["-", "gone.txt"],
        ["+", "new.txt"],
        ["~", "program.py"],
    ]

    assert second.rollback().version == first.version
    assert client.run("versions").result(timeout=300) == "first"
    with pytest.raises(ConflictError, match="nothing to go back to"):
        first.rollback()
    assert first.version[:12] in stack.qonduit("functions", "alias", "versions", "best").stdout
    listed = json.loads(stack.qonduit("functions", "versions", "versions", "--json").stdout)
    assert [version["aliases"] for version in listed] == [[], ["best", "latest", "stable"]]
    stack.qonduit("functions", "unalias", "versions", "best")
    unknown = stack.qonduit("run", "versions@best", check=False)
    assert (unknown.returncode, "latest, stable" in unknown.stderr) == (1, True)
    with pytest.raises(NotFoundError):
        first.remove_alias("best")


def test_an_upload_sends_only_what_is_new(
    client: ServerlessClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = 0
    send = client.connection.send

    def counting(select: Callable[..., Any], requests: Callable[[], Any]) -> Any:
        def counted() -> Any:
            nonlocal sent
            for request in requests():
                sent += request.ByteSize()
                yield request

        return send(select, counted)

    monkeypatch.setattr(client.connection, "send", counting)
    weights = os.urandom(3_000_000)
    (tmp_path / "weights.bin").write_bytes(weights)
    upload(client, tmp_path, "weights", "first")
    assert sent > len(weights)
    sent = 0
    (tmp_path / "program.py").write_text(
        "import hashlib, pathlib\nfrom qonduit import save_result\n"
        "save_result(hashlib.sha256(pathlib.Path('renamed.bin').read_bytes()).hexdigest())\n"
    )
    (tmp_path / "weights.bin").rename(tmp_path / "renamed.bin")
    function = client.upload(QiskitFunction("weights", entrypoint="program.py", working_dir=str(tmp_path)))
    assert sent < 20_000
    import hashlib  # noqa: PLC0415 - Beside its only use.

    assert function.run().result(timeout=300) == hashlib.sha256(weights).hexdigest()


def test_arguments_that_do_not_fit_are_refused_with_the_place(
    stack: Stack, client: ServerlessClient, tmp_path: Path
) -> None:
    schema = {"required": ["shots"], "properties": {"shots": {"type": "integer", "minimum": 1}}}
    function = upload(client, tmp_path, "schema", "ran", arguments_schema=schema)
    assert client.get("schema").arguments_schema == schema
    with pytest.raises(InvalidRequestError, match=r"shots.*minimum"):
        function.run(shots=0)
    assert function.run(shots=1).result(timeout=300) == "ran"
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    again = ("upload", str(tmp_path / "program.py"), "--title", "schema", "--schema", str(tmp_path / "schema.json"))
    stack.qonduit(*again)
    refused = stack.qonduit("run", "schema", check=False)
    assert (refused.returncode, "shots" in refused.stderr) == (1, True)


def test_large_arrays_go_in_and_out_as_they_are(submit: Callable[..., Job]) -> None:
    array = np.random.default_rng(3).random((600, 700))
    job = submit(
        "from qonduit import get_arguments, save_result\n"
        "array = get_arguments()['array']\n"
        "array *= 2\n"
        "save_result({'doubled': array, 'sum': float(array.sum())})\n",
        array=array,
    )
    result = job.result(timeout=300)
    assert np.array_equal(result["doubled"], 2 * array)
    assert result["sum"] == pytest.approx(2 * array.sum())
    assert np.array_equal(job.arguments()["array"], array)


def a_tar(path: Path, content: bytes = b"x") -> Path:
    source = path.with_suffix(".txt")
    source.write_bytes(content)
    with tarfile.open(path, "w") as tar:
        tar.add(source, arcname="member.txt")
    return path


def test_a_users_files_have_a_limit_and_a_job_finds_what_it_names(
    stack: Stack, tmp_path: Path, submit_to: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    token = stack.qonduit("users", "add", "limited").stdout.split()[-1]
    limited = stack.client(token)
    stack.qonduit("users", "limit", "limited", "--files", "25000")
    for name in ("a.tar", "b.tar"):
        limited.file_upload(a_tar(tmp_path / name))
    with pytest.raises(QuotaExceededError, match=r"25,000"):
        limited.file_upload(a_tar(tmp_path / "c.tar"))
    sent: list[int] = []
    monkeypatch.setattr("qonduit.file_space.chunks", lambda *_: sent.append(1) or iter(()))
    with pytest.raises(QuotaExceededError, match=r"25,000"):
        limited.file_upload(a_tar(tmp_path / "large.tar", bytes(9_000_000)))
    assert sent == []
    monkeypatch.undo()
    usage = limited.file_usage()
    assert (usage.file_count, usage.used_bytes, usage.limit_bytes) == (2, 20_480, 25_000)
    text = (
        "import os, tarfile\nfrom qonduit import save_result\n"
        "names = os.listdir('/data')\n"
        "tarfile.open('/data/too-much.tar', 'w').close()\n"
        "save_result(names)\n"
    )
    job = submit_to(limited, text, Configuration(files=["b.tar"]))
    assert job.result(timeout=300) == ["b.tar"]
    assert "'too-much.tar' in /data was not kept" in job.logs()
    assert "25,000" in job.logs()
    assert limited.files() == ["a.tar", "b.tar"]
    with pytest.raises(NotFoundError, match=r"missing\.tar"):
        submit_to(limited, text, Configuration(files=["missing.tar"]))


def test_a_deleted_job_is_gone(stack: Stack, client: ServerlessClient, submit: Callable[..., Job]) -> None:
    job = submit("print('to be deleted')\n")
    job.result(timeout=300)
    assert stack.qonduit("job", "delete", job.job_id).stdout == f"{job.job_id} was deleted.\n"
    with pytest.raises(NotFoundError):
        client.job(job.job_id)
    assert stack.qonduit("job", "delete", job.job_id, check=False).returncode == 1
    running = submit("import time\ntime.sleep(600)\n")
    with pytest.raises(ConflictError, match="Cancel it"):
        running.delete()
    running.cancel()
