"""What `qonduit up`, `down`, `status` and `logs` say when something is wrong."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from qonduit.stack.errors import StackError
from qonduit.stack.given_rabbitmq import wait_until_it_answers
from stand_ins import SERVICES, Stack, qonduit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

PATIENT = """
from qonduit.cli import main
from qonduit.stack.given_rabbitmq import wait_until_it_answers
wait_until_it_answers.__defaults__ = (600.0,)
main()
"""
"""The command `qonduit`, whose `up` waits for RabbitMQ as long as other commands may take on a busy machine."""


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """A port on which nobody listens, and nobody else can."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        yield deaf.getsockname()[1]


def test_what_cannot_be_a_data_folder_is_wrong_usage(stack: Stack, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for arguments, variables in ((("--data-dir", str(file)), {}), ((), {"QONDUIT_HOME": str(file)})):
        done = qonduit({**stack.environment, **variables}, "up", *arguments)
        assert done.returncode == 2, done.stderr
        assert str(file) in done.stderr
        assert "file" in done.stderr
        assert "Traceback" not in done.stderr


def test_logs_before_any_stack_say_so(stack: Stack) -> None:
    done = stack.run("logs", "gateway")
    assert done.returncode == 4
    assert "No stack was ever started" in done.stderr


def test_wrong_settings_end_it_all_at_once(stack: Stack) -> None:
    done = stack.up(QONDUIT_WORKER_CPU="few")
    assert done.returncode == 4
    assert "setting QONDUIT_WORKER_CPU: no number" in done.stderr
    assert "starting it again" not in done.stdout


def test_a_given_rabbitmq_that_is_not_there_is_waited_for_with_the_reason(stack: Stack, deaf_port: int) -> None:
    command = [sys.executable, "-c", PATIENT, "up", "--data-dir", str(stack.folder), "--amqp-url"]
    command.append(f"amqp://127.0.0.1:{deaf_port}")
    with subprocess.Popen(command, env=stack.environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = next(line for line in process.stdout if "waiting" in line)
        assert f"waiting for RabbitMQ at 127.0.0.1:{deaf_port} (connection refused)" in said
        assert stack.run("status", "--json").returncode == 4
        assert "is stopped" in stack.run("down").stdout, "even while it waits"
        assert process.wait(60) == 0


async def test_a_given_rabbitmq_is_given_up_in_one_sentence(amqp_url: str, deaf_port: int) -> None:
    said: list[str] = []
    await wait_until_it_answers(amqp_url, said.append)
    with pytest.raises(StackError, match=rf"127\.0\.0\.1:{deaf_port} did not answer within 0 s \(connection refused\)"):
        await wait_until_it_answers(f"amqp://127.0.0.1:{deaf_port}", said.append, patience_s=0)
    assert len(said) == 1


def test_a_url_that_is_none_of_amqp_is_wrong_usage(stack: Stack) -> None:
    done = stack.run("up", "--amqp-url", "localhost:5672")
    assert done.returncode == 2
    assert "amqp://user:password@host" in done.stderr


def test_down_ends_what_a_killed_supervisor_left_and_says_so(stack: Stack) -> None:
    stack.up(STUBBORN="storage")
    stack.supervisor.send(signal.SIGKILL)
    stack.supervisor.wait(60)
    status = stack.run("status")
    assert "left behind" in status.stdout
    assert "`qonduit down` ends them" in status.stderr
    storage = stack.process("storage")
    with subprocess.Popen(
        [sys.executable, "-m", "qonduit.cli", "down", "--data-dir", str(stack.folder)],
        env=stack.environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as down:
        stack.await_told(by=down.pid)
        assert down.poll() is None, "it waits for the stubborn one"
        storage.send(signal.SIGKILL)
        assert down.stdout is not None
        assert "what it left behind is ended: " in down.stdout.read()
    assert not any(stack.process(name).alive for name in SERVICES)
    assert "dead" in stack.run("status").stdout


def test_a_service_that_is_still_starting_is_found_after_a_kill_of_the_supervisor(stack: Stack) -> None:
    command = [sys.executable, "-m", "qonduit.cli", "up", "--amqp-url", stack.amqp_url, "--data-dir", str(stack.folder)]
    slow = {**stack.environment, "SLOW": "worker"}
    with subprocess.Popen(command, env=slow, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        next(line for line in process.stdout if "gateway" in line)
        stack.await_state(lambda state: state["services"]["worker"]["pid"] > 0)
        process.kill()
    pids = [stack.process(name) for name in SERVICES]
    assert "does not run" in stack.run("status").stderr
    stack.run("down")
    assert not any(pid.alive for pid in pids)
