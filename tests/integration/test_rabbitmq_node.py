"""The private RabbitMQ node: what it keeps, what it refuses, and that nothing of it stays behind."""

from __future__ import annotations

import signal
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pytest
from qonduit.stack import rabbitmq_data, rabbitmq_home
from qonduit.stack.rabbitmq import RabbitMQMissingError, RabbitMQStartError, RabbitNode, RabbitNodeError
from qonduit_service_kit.bus import GATEWAY_INBOX, Bus
from qonduit_service_kit.messages import GATEWAY, SchedulerHello

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from qonduit_service_kit.testing import PrivateBroker

pytestmark = pytest.mark.usefixtures("broker")  # Skips, or fails in CI, where RabbitMQ is missing.

SUPERVISOR = """
import sys
from pathlib import Path
from qonduit.stack.rabbitmq import RabbitNode
node = RabbitNode(Path(sys.argv[1]))
node.start()
print(node.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[RabbitNode]:
    """A node that is not started."""
    made = RabbitNode(tmp_path / "node")
    yield made
    made.stop()


async def test_messages_and_address_outlive_a_restart(node: RabbitNode, tmp_path: Path) -> None:
    node.start()
    url, pid = node.url, node.pid
    node.start()
    assert node.pid == pid
    bus = Bus(url, app_id="test")
    await bus.start()
    await bus.publish(GATEWAY, SchedulerHello("kept"))
    await bus.stop()
    node.stop()
    node.stop()
    assert node.pid is None
    again = RabbitNode(tmp_path / "node")
    again.start()
    try:
        assert again.url == url
        bus = Bus(again.url, app_id="test")
        await bus.start()
        assert await bus.count(GATEWAY_INBOX) == 1
        await bus.stop()
    finally:
        again.stop()


def test_nothing_stays_behind_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as supervisor:
        assert supervisor.stdout is not None
        family = psutil.Process(int(supervisor.stdout.readline()))
        processes = [family, *family.children(recursive=True)]
        assert not any("epmd" in process.name() for process in processes)
        supervisor.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(processes, timeout=120)
    assert alive == []


def test_it_listens_on_loopback_only_and_keeps_its_secrets(broker: PrivateBroker) -> None:
    assert broker.node.pid is not None
    listening = [
        connection.laddr.ip
        for connection in psutil.Process(broker.node.pid).net_connections()
        if connection.status == psutil.CONN_LISTEN
    ]
    assert set(listening) == {"127.0.0.1"}
    folder = broker.node.log_file.parent.parent
    for name in ("node.json", "rabbitmq.config", ".erlang.cookie"):
        assert stat.S_IMODE((folder / name).stat().st_mode) & 0o077 == 0


def test_a_second_node_on_the_same_folder_is_refused(broker: PrivateBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rabbitmq_data, "LOCK_TIMEOUT_S", 0.05)
    folder = broker.node.log_file.parent.parent
    with pytest.raises(RabbitMQStartError, match="another RabbitMQ node runs on"):
        RabbitNode(folder).start()


def test_a_taken_port_is_named(broker: PrivateBroker, tmp_path: Path) -> None:
    with pytest.raises(RabbitMQStartError, match=f"port {broker.node.port} is in use"):
        RabbitNode(tmp_path / "other", amqp_port=broker.node.port).start()


def test_a_start_that_fails_tells_the_end_of_the_log_and_leaves_nothing(
    node: RabbitNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nonsense(folder: Path, *_options: object) -> None:
        (folder / "rabbitmq.config").write_text("nonsense")

    monkeypatch.setattr("qonduit.stack.rabbitmq.write_config", nonsense)
    with pytest.raises(RabbitMQStartError, match=r"ended while starting[^$]*failed_to_read"):
        node.start()
    assert node.pid is None


def test_without_rabbitmq_one_learns_how_to_get_it(node: RabbitNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rabbitmq_home, "_INSTALLED", ())
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(RabbitMQMissingError, match="apt-get install rabbitmq-server"):
        node.start()


def test_what_the_node_cannot_evaluate_is_told(broker: PrivateBroker, node: RabbitNode) -> None:
    with pytest.raises(RabbitNodeError, match="undef"):
        broker.node.control("no_such_module:call().")
    with pytest.raises(RabbitNodeError, match="not running"):
        node.control("ok.")
