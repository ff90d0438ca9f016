"""Tiers B and C, run by test_sandbox_users.py where the interpreter can be read by every user."""

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from qonduit_worker.sandbox import CgroupTree, Limits, SandboxConfig, Zygote
from qonduit_worker.sandbox.hierarchies import Hierarchies
from qonduit_worker.sandbox.testing import ENDING, STUBBORN, Sandboxes, all_gone, handles

PROGRAMS = Path(__file__).with_name("programs")
TIER = os.environ.get("QONDUIT_TEST_TIER", "B")
ONLY_B = pytest.mark.skipif(TIER != "B", reason="tier C confines nothing")


@pytest.fixture
async def boxes(worker_folder: Path, make_sandboxes: Callable[[Zygote], Sandboxes]) -> AsyncIterator[Sandboxes]:
    """Sandboxes of a worker that has neither namespaces nor control groups."""
    config = SandboxConfig(worker_folder / "state", TIER, python_path=(PROGRAMS,))
    zygote = Zygote(config=config, cgroups=CgroupTree(worker_folder, Hierarchies()))
    await zygote.start()
    yield make_sandboxes(zygote)
    await zygote.stop()
    await asyncio.sleep(0)


async def test_a_program_runs_in_its_own_folder(boxes: Sandboxes) -> None:
    spec = boxes.spec("import os; print(os.getcwd()); open('made', 'w'); print(os.listdir('../data'))")
    (spec.directory / "data" / "given").touch()
    sandbox = await boxes.zygote.fork(spec)
    output = (await sandbox.output.read()).decode()
    assert output.splitlines() == [str(boxes.zygote.inside(spec.directory).job), "['given']"]
    assert (await sandbox.wait()).exit_code == 0


async def test_a_zygote_forked_from_another_serves_and_dies_with_it(boxes: Sandboxes, worker_folder: Path) -> None:
    config = SandboxConfig(worker_folder / "state", TIER, python_path=(PROGRAMS,))
    zygote = Zygote(config=config, cgroups=CgroupTree(worker_folder, Hierarchies()), base=boxes.zygote)
    await zygote.start()
    sandbox = await Sandboxes(zygote, worker_folder / "more").fork("import time; print(1); time.sleep(600)")
    assert await sandbox.output.readline() == b"1\n"
    os.kill(boxes.zygote.pid, signal.SIGKILL)
    await zygote.died()
    await sandbox.wait()
    await zygote.stop()
    await boxes.zygote.stop()
    await zygote.start()
    sandbox = await Sandboxes(zygote, worker_folder / "again").fork("print(2)")
    assert await sandbox.output.read() == b"2\n"
    await sandbox.wait()
    await zygote.stop()


@ONLY_B
async def test_files_of_others_are_out_of_reach(boxes: Sandboxes) -> None:
    neighbour = boxes.spec("pass")
    (neighbour.directory / "data" / "secret").write_text("secret")
    code = f"""
        import os, signal
        for path in ({str(neighbour.directory)!r} + "/data/secret", "/etc/hostname", "/root", {__file__!r}, "/var/log"):
            try:
                open(path).read() if os.path.isfile(path) else os.listdir(path)
                print("reached", path)
            except OSError:
                pass
        for act in (lambda: os.kill({os.getpid()}, 0), lambda: os.kill(os.getppid(), 9), lambda: open("/usr/x", "w")):
            try:
                act()
                print("done")
            except OSError:
                pass
        print(os.getuid() >= 2_000_000)
    """
    output, end = await boxes.run(code)
    assert (output, end.exit_code) == ("True\n", 0)


async def test_the_agents_unix_socket_is_reached_by_its_path(boxes: Sandboxes) -> None:
    spec = boxes.spec("import os, socket; socket.socket(socket.AF_UNIX).connect(os.environ['AGENT']); print('reached')")
    agent = boxes.zygote.inside(spec.directory).agent_socket
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(agent))
        server.listen()
        sandbox = await boxes.zygote.fork(replace(spec, environment={**spec.environment, "AGENT": str(agent)}))
        assert await sandbox.output.read() == b"reached\n"
        await sandbox.wait()


@ONLY_B
async def test_a_providers_files_can_be_read_and_not_changed(boxes: Sandboxes) -> None:
    spec = boxes.spec("""
        import os
        model, run = os.environ["MODEL"], os.path.dirname(os.path.dirname(os.environ["MODEL"]))
        print(open(model).read())
        for act in (
            lambda: open(model, "r+"), lambda: os.truncate(model, 0), lambda: os.remove(model),
            lambda: open(model + "2", "w"), lambda: os.rename(model, "../data/model"), lambda: os.mkdir(run + "/x"),
        ):
            try:
                act()
                print("done")
            except OSError as error:
                print(type(error).__name__)
    """)
    function_data = boxes.zygote.inside(spec.directory).function_data
    function_data.mkdir()
    model = function_data / "model.tar"
    model.write_text("weights")
    sandbox = await boxes.zygote.fork(replace(spec, environment={**spec.environment, "MODEL": str(model)}))
    output = (await sandbox.output.read()).decode()
    assert output.split() == ["weights", *["PermissionError"] * 6]
    assert (await sandbox.wait()).exit_code == 0
    assert model.read_text() == "weights"


async def test_a_layer_of_packages_is_imported_from_where_it_is(boxes: Sandboxes, worker_folder: Path) -> None:
    packages = worker_folder / "state" / "environments" / "digest" / "site-packages"
    packages.mkdir(parents=True)
    (packages / "brought.py").write_text("where = __file__\n")
    spec = replace(boxes.spec("import brought; print(brought.where)"), layer=packages)
    sandbox = await boxes.zygote.fork(spec)
    assert (await sandbox.output.read()).decode() == f"{packages / 'brought.py'}\n"
    await sandbox.wait()


@ONLY_B
async def test_the_one_port_is_its_own(boxes: Sandboxes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        code = f"""
            import json, os, socket
            def tried(family, kind, port, protocol=0):
                try:
                    with socket.socket(family, kind, protocol) as s:
                        s.connect(("127.0.0.1", port))
                        return "connected"
                except OSError as error:
                    return type(error).__name__
            own = int(os.environ["PORT"])
            tcp, udp = socket.SOCK_STREAM, socket.SOCK_DGRAM
            print(json.dumps([
                tried(socket.AF_INET, tcp, own), tried(socket.AF_INET, tcp, {other.getsockname()[1]}),
                tried(socket.AF_INET, udp, own), tried(socket.AF_INET6, tcp, own), tried(socket.AF_INET, tcp, own, 262),
            ]))
        """
        output, _end = await boxes.run(code, environment={"PORT": "@QONDUIT_PORT@"})
    assert json.loads(output) == ["connected", "PermissionError", "OSError", "OSError", "OSError"]


@pytest.mark.parametrize("how", ["kill", "zygote", "exit"])
async def test_no_process_is_left(boxes: Sandboxes, how: str) -> None:
    spec = boxes.spec(ENDING if how == "exit" else STUBBORN)
    sandbox = await boxes.zygote.fork(spec)
    assert await sandbox.output.readline() == b"ready\n"
    pidfds = handles(sandbox.processes())
    assert len(pidfds) == 5
    if how == "kill":
        sandbox.kill()
    elif how == "zygote":
        os.kill(boxes.zygote.pid, signal.SIGKILL)
    else:
        (spec.directory / "job" / "go").touch()
    end = await sandbox.wait()
    assert (end.exit_code, end.signal) == ((5, None) if how == "exit" else (None, signal.SIGKILL))
    assert await sandbox.output.read() == b""
    assert all_gone(pidfds)


async def test_memory_and_exit_are_told(boxes: Sandboxes, limits: Limits) -> None:
    _output, end = await boxes.run("import sys; sys.exit(3)")
    assert end.exit_code == 3
    # It stops before it is in the way of others, however late the watchdog comes.
    code = """
        import time
        held = []
        while True:
            held.append(bytearray(4 << 20))
            time.sleep(0.01 if len(held) < 100 else 600)
    """
    _output, end = await boxes.run(code, limits=replace(limits, mem_bytes=64 << 20))
    assert (end.signal, end.oom_killed) == (signal.SIGKILL, True)
