"""The SDK against a real gRPC server: functions, jobs and what goes wrong with them."""

from __future__ import annotations

import contextlib
import io
import signal
import subprocess
import sys
import tarfile
import threading
from typing import TYPE_CHECKING, Any

import pytest
from fake_gateway import TOKEN
from qonduit import Configuration, IBMServerlessClient, QiskitFunction, ServerlessClient
from qonduit import exceptions as errors
from qonduit.encoding import encode

if TYPE_CHECKING:
    from pathlib import Path

    from fake_gateway import FakeGateway
    from qonduit import Job, RunnableQiskitFunction


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    working_dir = tmp_path / "source_files"
    working_dir.mkdir()
    (working_dir / "program.py").write_text("print('hello')\n")
    return working_dir


@pytest.fixture
def function(client: ServerlessClient, folder: Path) -> RunnableQiskitFunction:
    return client.upload(QiskitFunction(title="demo", entrypoint="program.py", working_dir=str(folder)))


def end(gateway: FakeGateway, job: Job, status: str, **fields: object) -> threading.Thread:
    """End a job as soon as somebody watches it."""

    def wait_and_end() -> None:
        gateway.state.await_watchers(1)
        gateway.state.change(job.job_id, status, **fields)

    thread = threading.Thread(target=wait_and_end)
    thread.start()
    return thread


def test_an_uploaded_function_is_listed_by_title_and_carries_its_files(
    client: ServerlessClient, gateway: FakeGateway, folder: Path
) -> None:
    for title in ("one", "two", "three"):
        client.upload(
            QiskitFunction(
                title=title, entrypoint="program.py", working_dir=str(folder), env_vars={"A": "b"}, version="1.2"
            )
        )
    assert [found.title for found in client.list()] == ["one", "two", "three"]
    assert next(found for found in client.list() if found.title == "two") == client.get("two")
    assert client.get("two").version_label == "1.2"
    with tarfile.open(fileobj=io.BytesIO(gateway.state.artifacts["two"])) as tar:
        assert tar.getnames() == ["program.py"]
    assert dict(gateway.state.functions["two"].spec.env_vars) == {"A": "b"}


def test_run_sends_arguments_and_what_the_job_asks_for(
    client: ServerlessClient, gateway: FakeGateway, function: RunnableQiskitFunction
) -> None:
    job = function.run(config=Configuration(cpu=0.5, mem=2**30, time_limit_s=9, priority=3), shots=[1, 2])
    (request,) = gateway.state.runs
    assert request.arguments_json == b'{"shots":[1,2]}'
    assert (request.resources.cpu_millis, request.resources.mem_bytes) == (500, 2**30)
    assert (request.time_limit_seconds, request.priority, request.qpu_budget_seconds) == (9, 3, 0)
    assert len(request.idempotency_key) == 32
    assert (job.status(), client.job(job.job_id).status()) == ("QUEUED", "QUEUED")
    assert [found.job_id for found in client.jobs(function, status="QUEUED")] == [job.job_id]
    assert client.jobs(status="DONE") == []


def test_large_arguments_travel_by_stream(gateway: FakeGateway, function: RunnableQiskitFunction) -> None:
    function.run(text="x" * 3_000_000)
    (request,) = gateway.state.runs
    assert request.arguments_json == b""
    assert len(gateway.state.arguments[request.arguments_digest]) > 3_000_000


def test_a_run_whose_reply_is_lost_makes_one_job(gateway: FakeGateway, function: RunnableQiskitFunction) -> None:
    gateway.state.lose_next_run_reply = True
    job = function.run()
    assert len(gateway.state.runs) == 2
    assert list(gateway.state.jobs) == [job.job_id]


def test_a_run_beyond_the_users_jobs_is_refused_once_with_the_numbers_and_worth_another_try(
    gateway: FakeGateway, function: RunnableQiskitFunction
) -> None:
    gateway.state.active_job_limit = 1
    first = function.run()
    with pytest.raises(errors.ActiveJobLimitError, match="ada may have 1, and has 1") as refused:
        function.run()
    assert isinstance(refused.value, errors.LimitExceededError)
    assert (refused.value.active, refused.value.limit, refused.value.retryable) == (1, 1, True)
    assert len(gateway.state.runs) == 2, "waiting for room is the caller's to do"
    gateway.state.change(first.job_id, "DONE")
    assert function.run().job_id != first.job_id


def test_arguments_that_cannot_be_serialised_are_named_and_nothing_is_sent(
    gateway: FakeGateway, function: RunnableQiskitFunction
) -> None:
    with pytest.raises(errors.NotSerializableError, match=r"arguments\['callback'\] is a function"):
        function.run(callback=print)
    assert gateway.state.runs == []


def test_result_returns_as_soon_as_the_job_ends(gateway: FakeGateway, function: RunnableQiskitFunction) -> None:
    job = function.run()
    data = encode({"value": "y" * 5000})
    gateway.state.results[job.job_id] = data
    thread = end(gateway, job, "DONE", result_bytes=len(data))
    assert job.result(timeout=60) == {"value": "y" * 5000}
    assert gateway.state.watchers == 1, "it was told of the end by the one stream that it waits on"
    thread.join()
    assert job.in_terminal_state()


def test_no_saved_result_is_an_empty_dict(gateway: FakeGateway, function: RunnableQiskitFunction) -> None:
    job = function.run()
    gateway.state.change(job.job_id, "DONE")
    assert job.result() == {}


def test_a_failed_job_raises_with_the_programs_traceback(
    gateway: FakeGateway, function: RunnableQiskitFunction
) -> None:
    for reason, kind in {1: errors.ProgramError, 2: errors.OutOfMemoryError, 3: errors.JobTimeoutError}.items():
        job = function.run()
        text = 'Traceback (most recent call last):\n  File "program.py", line 3\nValueError: no'
        gateway.state.change(job.job_id, "ERROR", reason=reason, error_text=text)
        with pytest.raises(kind, match="ValueError: no") as caught:
            job.result()
        assert isinstance(caught.value, errors.JobFailedError)
        assert isinstance(caught.value, errors.QiskitServerlessException)
        assert job.error_message() == text


def test_a_canceled_job_raises_and_never_looks_like_an_empty_result(function: RunnableQiskitFunction) -> None:
    job = function.run()
    assert job.cancel() == "Canceled."
    with pytest.raises(errors.JobCanceledError):
        job.result()


def test_a_result_that_takes_too_long_leaves_the_job_alone(function: RunnableQiskitFunction) -> None:
    job = function.run()
    with pytest.raises(TimeoutError, match="it goes on"):
        job.result(timeout=0.2)
    assert job.status() == "QUEUED"
    with pytest.raises(errors.JobNotDoneError):
        job.result(wait=False)


def test_result_goes_on_after_a_restart_of_the_server(gateway: FakeGateway, function: RunnableQiskitFunction) -> None:
    job = function.run()
    statuses = job.follow(timeout=100)
    assert next(statuses) == "QUEUED"
    gateway.stop()
    gateway.state.change(job.job_id, "RUNNING: MAPPING")
    gateway.start()
    assert next(statuses) == "RUNNING: MAPPING"
    gateway.state.change(job.job_id, "DONE")
    assert list(statuses) == ["DONE"]


def test_logs_keep_characters_whole_that_arrive_in_pieces(
    gateway: FakeGateway, function: RunnableQiskitFunction
) -> None:
    job = function.run()
    gateway.state.logs[job.job_id] = "Müß ✓ größer".encode()
    assert job.logs() == "Müß ✓ größer"
    assert "".join(job.stream_logs()) == "Müß ✓ größer"
    gateway.state.logs[job.job_id] = b"one\ntwo\nthree\n"
    assert job.logs(tail=2) == "two\nthree\n"
    assert "".join(job.stream_logs(tail=1)) == "three\n"


def test_awaiting_a_job_gives_its_result(gateway: FakeGateway, function: RunnableQiskitFunction) -> None:
    import asyncio  # noqa: PLC0415

    async def wait() -> object:
        return await function.run()

    thread = threading.Thread(
        target=lambda: (gateway.state.await_watchers(1), [gateway.state.change(j, "DONE") for j in gateway.state.jobs])
    )
    thread.start()
    assert asyncio.run(wait()) == {}
    thread.join()


def test_what_does_not_exist_is_said_by_class(client: ServerlessClient) -> None:
    with pytest.raises(errors.FunctionNotFoundError, match="'nothing'"):
        client.get("nothing")
    with pytest.raises(errors.JobNotFoundError):
        client.job("nothing")
    with pytest.raises(errors.StoredFileNotFoundError):
        client.file_delete("nothing.tar")


def test_a_wrong_token_is_an_authentication_error(gateway: FakeGateway) -> None:
    with (
        ServerlessClient(host=gateway.address, token="wrong") as client,
        pytest.raises(errors.AuthenticationError, match="not known") as caught,
    ):
        client.jobs()
    assert caught.value.reason == "INVALID_TOKEN"


def test_a_server_that_is_not_there_is_named_with_what_to_do(gateway: FakeGateway) -> None:
    gateway.stop()
    with (
        ServerlessClient(host=gateway.address, token="any") as client,
        pytest.raises(errors.ServerUnavailableError, match=rf"{gateway.address}.*qonduit up") as caught,
    ):
        client.jobs()
    assert caught.value.retryable


def test_violations_of_a_request_are_told_by_field(client: ServerlessClient, folder: Path) -> None:
    bad = QiskitFunction(title="what?", entrypoint="program.py", working_dir=str(folder))
    with pytest.raises(errors.InvalidFunctionError, match="title: only letters"):
        client.upload(bad)


def test_an_artifact_over_the_limit_names_its_largest_files(
    client: ServerlessClient, gateway: FakeGateway, folder: Path
) -> None:
    for size in range(12):
        (folder / f"weights{size}.bin").write_bytes(bytes(100_000 + size * 1000))
    gateway.state.artifact_limit_bytes = 1000
    with pytest.raises(errors.ArtifactTooLargeError) as small:
        client.upload(QiskitFunction(title="big", entrypoint="program.py", working_dir=str(folder)))
    (folder / "weights.h5").write_bytes(bytes(9 * 1024**2))
    with pytest.raises(errors.ArtifactTooLargeError, match=r"9\.0 MiB  weights\.h5") as large:
        client.upload(QiskitFunction(title="big", entrypoint="program.py", working_dir=str(folder)))
    for caught in (small, large):
        assert "weights11.bin" in str(caught.value)
        assert "weights0.bin" not in str(caught.value), "ten are enough"
    assert gateway.state.functions == {}


def test_ibms_client_is_the_same_and_prefers_what_the_environment_names(
    gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QONDUIT_ADDRESS", gateway.address)
    monkeypatch.setenv("QONDUIT_TOKEN", "good-token")
    with IBMServerlessClient(token="an IBM API key", instance="crn:v1:...", channel="ibm_cloud") as client:
        assert client.list() == []


def test_a_budget_of_qpu_seconds_goes_by_itself_or_with_the_configuration(
    gateway: FakeGateway, function: RunnableQiskitFunction
) -> None:
    function.run(config=Configuration(qpu_budget_s=60))
    function.run(qpu_budget_s=1.5, shots=1)
    function.run(config=Configuration(qpu_budget_s=60, priority=2), qpu_budget_s=5)
    asked = [(run.qpu_budget_seconds, run.priority, run.arguments_json) for run in gateway.state.runs]
    assert asked == [(60, 0, b"{}"), (1.5, 0, b'{"shots":1}'), (5, 2, b"{}")]
    with pytest.raises(ValueError, match="qpu_budget_s must not be negative"):
        function.run(qpu_budget_s=-1)


def test_settings_of_other_systems_are_ignored_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="workers are ignored"):
        Configuration(workers=3, cpu=2)
    with pytest.raises(ValueError, match="cpu must not be negative"):
        Configuration(cpu=-1)


def test_memory_is_in_bytes_and_who_writes_another_unit_is_told() -> None:
    for mem in (4, 4096, 16 * 1024**2 - 1):
        with pytest.raises(ValueError, match=r"mem is in bytes.*4 \* 1024\*\*3"):
            Configuration(mem=mem)
    assert Configuration(mem=16 * 1024**2).mem == 2**24


@pytest.mark.parametrize(
    ("files", "text"),
    [("a.tar", r"write files=\['a\.tar'\]"), ([3], "list of names.* 3 is no text"), (3, "list of names.* not 3")],
)
def test_files_of_a_job_are_named_in_a_list(files: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        Configuration(files=files)
    names = (name for name in ("a.tar", "b.h5"))
    assert Configuration(files=names).files == ["a.tar", "b.h5"]  # type: ignore[arg-type]


def test_config_is_reserved_and_how_else_to_pass_it_is_told(
    client: ServerlessClient, gateway: FakeGateway, function: RunnableQiskitFunction
) -> None:
    with pytest.raises(TypeError, match=r"client\.run\('demo', arguments="):
        function.run(config={"a": 1})  # type: ignore[arg-type]
    client.run("demo", arguments={"config": {"a": 1}})
    assert gateway.state.runs[-1].arguments_json == b'{"config":{"a":1}}'


def test_functions_take_the_first_values_in_the_order_that_users_know() -> None:
    function = QiskitFunction("demo", None, "demo.py", "folder")
    assert (function.title, function.entrypoint, function.working_dir) == ("demo", "demo.py", "folder")
    for named in (QiskitFunction("demo", "acme", "demo.py"), QiskitFunction("acme/demo", entrypoint="demo.py")):
        assert (named.title, named.provider, named.name) == ("demo", "acme", "acme/demo")
    with pytest.raises(errors.InvalidFunctionError, match="name one provider"):
        QiskitFunction("acme/demo", "other", "demo.py")


def test_what_functions_and_jobs_look_like(function: RunnableQiskitFunction) -> None:
    assert repr(function) == f"<RunnableQiskitFunction demo, version {function.version[:12]}>"
    job = function.run()
    assert repr(job) == f"<Job {job.job_id} of demo, {job.status()}>"


WAITS = """
import signal, sys
from qonduit import ServerlessClient
signal.signal(signal.SIGINT, signal.default_int_handler)  # Ignored where a script put the test run in the background.
ServerlessClient(host=sys.argv[1], token=sys.argv[2]).job("job-1").result()
"""


def test_ctrl_c_while_waiting_shows_nothing_of_what_waits(gateway: FakeGateway) -> None:
    gateway.state.change("job-1", "RUNNING")
    command = [sys.executable, "-c", WAITS, gateway.address, TOKEN]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as waiting:
        gateway.state.await_watchers(1)
        told = ""
        while waiting.poll() is None:
            waiting.send_signal(signal.SIGINT)
            # grpc drops an interrupt that comes while it begins a call: a person presses Ctrl-C again.
            with contextlib.suppress(subprocess.TimeoutExpired):
                told = waiting.communicate(timeout=30)[1]
    assert told.rstrip().endswith("KeyboardInterrupt")
    assert "grpc" not in told
