"""The supervisor of `qonduit up`, with stand-ins for the services: real processes, real signals, no RabbitMQ."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from qonduit.stack.errors import NotInstalledError
from qonduit.stack.processes import process_id
from qonduit.stack.services import Service, check_installed
from stand_ins import SERVICES, Stack, qonduit

pytestmark = pytest.mark.slow


def test_up_status_down(stack: Stack, tmp_path: Path) -> None:
    done = stack.up()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "up (" in done.stdout
    assert "the sandbox is of sand" in done.stdout, "warnings of services are shown"
    status = json.loads(stack.run("status", "--json").stdout)
    assert status["running"]
    assert {service["name"]: service["state"] for service in status["services"]} == dict.fromkeys(SERVICES, "ready")
    assert stack.run("status").returncode == 0
    pids = [stack.process(name) for name in SERVICES] + [stack.supervisor]
    assert stack.run("down").returncode == 0
    assert not any(pid.alive for pid in pids)
    assert stack.run("status").returncode == 4
    assert "does not run" in stack.run("down").stdout
    assert (tmp_path / "config" / "qonduit" / "profile.json").exists()


def test_services_are_wired_to_each_other(stack: Stack) -> None:
    stack.up()
    state = stack.state
    settings = {name: json.loads((stack.folder / "run" / f"{name}.env").read_text()) for name in SERVICES}
    storage = f"127.0.0.1:{state['ports']['storage.port']}"
    assert settings["gateway"]["QONDUIT_GATEWAY_STORAGE_ADDRESS"] == storage
    assert settings["worker"]["QONDUIT_WORKER_STORAGE_ADDRESS"] == storage
    assert settings["scheduler"]["QONDUIT_SCHEDULER_AMQP_URL"] == stack.amqp_url
    assert state["address"] == f"127.0.0.1:{state['services']['gateway']['ports']['port']}"


def test_secrets_are_for_their_owner_alone(stack: Stack) -> None:
    stack.up()
    assert stat.S_IMODE(stack.folder.stat().st_mode) == 0o700
    for name in ("profile.json", "admin.token", "stack.json"):
        assert stat.S_IMODE((stack.folder / name).stat().st_mode) == 0o600
    profile = json.loads((stack.folder / "profile.json").read_text())
    assert profile["token"] == (stack.folder / "admin.token").read_text().strip()


def test_what_dies_is_started_again_on_the_same_ports(stack: Stack) -> None:
    stack.up()
    before = stack.state["services"]["gateway"]
    stack.process("gateway").send(signal.SIGKILL)
    stack.await_state(lambda state: state["services"]["gateway"]["restarts"] == 1)
    stack.await_state(lambda state: state["services"]["gateway"]["state"] == "ready")
    after = stack.state["services"]["gateway"]
    assert after["ports"] == before["ports"]
    assert after["pid"] != before["pid"]
    log = stack.run("logs", "stack").stdout
    assert "ended (killed by SIGKILL)" in log
    assert "starting it again in 0.25 s" in log


def test_services_die_with_a_supervisor_that_is_killed(stack: Stack) -> None:
    stack.up()
    pids = [stack.process(name) for name in SERVICES]
    stack.supervisor.send(signal.SIGKILL)
    for pid in pids:
        assert pid.wait(60)
    assert stack.up().returncode == 0, "and the next start finds its way"


def test_down_never_touches_another_process_with_a_known_pid(stack: Stack) -> None:
    stack.up()
    stack.run("down")
    state = stack.state
    me = process_id(os.getpid())
    state["supervisor_pid"], state["supervisor_birth"] = me.pid, "another life"
    state["services"]["worker"] |= {"pid": me.pid, "birth": "another life"}
    (stack.folder / "stack.json").write_text(json.dumps(state))
    assert "does not run" in stack.run("down").stdout


def test_a_stubborn_service_is_killed_by_a_second_signal(stack: Stack) -> None:
    stack.up(STUBBORN="storage")
    storage, supervisor = stack.process("storage"), stack.supervisor
    supervisor.send(signal.SIGINT)
    stack.await_state(lambda state: state["services"]["storage"]["state"] == "stopping")
    supervisor.send(signal.SIGINT)
    assert supervisor.wait(60)
    assert not storage.alive


def test_a_service_that_never_starts_ends_it_all_with_its_own_words(stack: Stack) -> None:
    done = stack.up(BROKEN="worker")
    assert done.returncode == 4
    assert "worker ended while starting (exit code 1)" in done.stderr
    assert "the stand-in is broken" in done.stderr
    assert json.loads(stack.run("status", "--json").stdout)["running"] is False
    assert not any(stack.process(name).alive for name in SERVICES)


def test_two_stacks_side_by_side(stack: Stack, tmp_path: Path) -> None:
    other = Stack(tmp_path / "other", stack.environment, stack.amqp_url)
    try:
        assert stack.up().returncode == 0
        done = other.up()
        assert done.returncode == 0, done.stderr
        assert "QONDUIT_HOME" in done.stdout, "the user's profile stays with the first, which runs"
        assert not set(stack.state["ports"].values()) & set(other.state["ports"].values())
    finally:
        other.run("down")


def test_one_data_folder_has_one_stack(stack: Stack) -> None:
    stack.up()
    log = (stack.folder / "logs" / "stack.log").read_text()
    done = stack.up()
    assert done.returncode == 4
    assert "runs on" in done.stderr
    assert "qonduit down" in done.stderr
    assert (stack.folder / "logs" / "stack.log").read_text() == log


def test_ports_and_token_stay_over_a_restart_and_a_taken_port_is_changed(stack: Stack) -> None:
    stack.up()
    ports, token = stack.state["ports"], (stack.folder / "admin.token").read_text()
    stack.run("down")
    stack.up()
    assert stack.state["ports"] == ports
    assert (stack.folder / "admin.token").read_text() == token
    stack.run("down")
    with socket.create_server(("127.0.0.1", ports["storage.port"])):
        assert stack.up().returncode == 0
        assert stack.state["ports"]["storage.port"] != ports["storage.port"]


def test_a_port_that_was_asked_for_and_is_taken_is_named(stack: Stack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = stack.up("--port", str(port))
    assert done.returncode == 4
    assert f"Port {port} is in use" in done.stderr


def test_a_service_that_is_not_installed_is_named_with_what_to_do() -> None:
    with pytest.raises(NotInstalledError, match=r"qonduit-of-no-kind .* pip install 'qonduit\[stack\]'"):
        check_installed([Service("of_no_kind", "of_no_kind")])


def test_several_workers_share_the_memory(stack: Stack) -> None:
    assert stack.up("--workers", "2").returncode == 0
    assert {"worker", "worker-2"} <= set(stack.state["services"])


def test_logs_of_earlier_starts_are_kept(stack: Stack) -> None:
    for _ in range(2):
        stack.up()
        stack.run("down")
    assert {"worker.log", "worker.log.1"} <= {path.name for path in (stack.folder / "logs").iterdir()}
    assert "sand" in stack.run("logs", "worker", "-n", "1").stdout
    assert "There are: " in stack.run("logs", "nothing").stderr


def test_the_foreground_stops_in_order_on_ctrl_c(stack: Stack) -> None:
    command = [sys.executable, "-m", "qonduit.cli", "up", "--amqp-url", stack.amqp_url, "--data-dir", str(stack.folder)]
    with subprocess.Popen(command, env=stack.environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if " up (" in line:
                process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    stopped = [line.split()[1] for line in lines if "stopped" in line]
    assert stopped[0] == "worker"
    assert stopped[-2:] == ["storage", "stack"]
    assert Path(stack.folder / "stack.json").exists()


def test_every_command_means_the_same_folder(stack: Stack, tmp_path: Path) -> None:
    """What another stack wrote into the user's profile must not make `down` or `status` act on it."""
    assert stack.up().returncode == 0
    elsewhere = {key: value for key, value in stack.environment.items() if key != "QONDUIT_HOME"}
    for command in ("status", "down"):
        done = qonduit(elsewhere, command)
        assert str(tmp_path / "share" / "qonduit") in done.stdout
        assert f"--data-dir {stack.folder}" in done.stderr, "and the one that runs is named"
    assert f"--data-dir {stack.folder}" in qonduit(elsewhere, "logs", "gateway").stderr
    assert stack.supervisor.alive
    by_variable = qonduit({**elsewhere, "QONDUIT_HOME": str(stack.folder)}, "down")
    assert f"The stack in {stack.folder} is stopped" in by_variable.stdout


def test_the_default_stack_takes_over_a_profile_that_names_nothing_that_runs(stack: Stack, tmp_path: Path) -> None:
    profile = tmp_path / "config" / "qonduit" / "profile.json"
    profile.parent.mkdir(parents=True)
    for stale in ('{"address": "127.0.0.1:1", "token": "x"}', "damaged"):
        profile.write_text(stale)
        assert "QONDUIT_HOME" not in stack.up().stdout
        assert json.loads(profile.read_text())["data_dir"] == str(stack.folder)
        stack.run("down")
    profile.write_text('{"address": "https://elsewhere.example:443", "token": "x"}')
    assert stack.up().stdout.splitlines()[-1].endswith(f"export QONDUIT_HOME={stack.folder}")
    assert "elsewhere.example" in profile.read_text()


def test_up_ends_with_what_to_do_next(stack: Stack) -> None:
    assert f"qonduit down --data-dir {stack.folder} stops it" in stack.up().stdout.splitlines()[-1]
    stack.run("down")
    by_variable = stack.up(QONDUIT_HOME=str(stack.folder)).stdout
    assert "qonduit down stops it" in by_variable
    assert "qonduit run" in by_variable
    stack.run("down")
    hidden = stack.up(QONDUIT_ADDRESS="127.0.0.1:1", QONDUIT_TOKEN="x").stdout.splitlines()[-1]
    assert f"unset QONDUIT_ADDRESS QONDUIT_TOKEN; export QONDUIT_HOME={stack.folder}" in hidden
