from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from qonduit_service_kit.lifecycle import Background, Periodic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SERVICE = """
import asyncio, os
from qonduit_service_kit.lifecycle import Background, main
from qonduit_service_kit.settings import ServiceSettings

class Settings(ServiceSettings, env_prefix="QONDUIT_DEMO_"):
    mode: str = ""

class Part:
    def __init__(self, name, mode=""):
        self.name, self.mode = name, mode
        self.ports = {f"{name}_port": 7} if name == "a" else {}
    async def start(self):
        print("start", self.name, flush=True)
        if self.mode == "fail":
            raise OSError("the port is in use")
        if self.mode == "hang":
            await asyncio.Event().wait()
    async def stop(self):
        print("stop", self.name, flush=True)
        if self.mode == "stubborn":
            raise RuntimeError("will not stop")

async def crash():
    raise RuntimeError("background is broken")

async def build(settings):
    parts = [Part("a"), Part("b", settings.mode)]
    return [*parts, Background(crash)] if settings.mode == "crash" else parts

main("demo", Settings, build)
"""


class Service:
    """A service in a process of its own."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.ready = folder / "ready.json"
        named = {f"QONDUIT_DEMO_{name.upper()}": value for name, value in settings.items()}
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVICE],
            env={**os.environ, "QONDUIT_DEMO_READY_FILE": str(self.ready), **named},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_line(self, wanted: str) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if wanted in line:
                return
        pytest.fail(f"it ended without saying {wanted!r}")

    def end(self, number: signal.Signals | None = None) -> tuple[int, list[str], str]:
        """Signal it, and return exit code, what the parts did, and the log."""
        if number is not None:
            self.process.send_signal(number)
        out, err = self.process.communicate(timeout=100)
        return self.process.returncode, out.splitlines(), err


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    services: list[Service] = []

    def made(**settings: str) -> Service:
        services.append(Service(tmp_path, **settings))
        return services[-1]

    yield made
    for service in services:
        service.process.kill()
        service.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_parts_start_in_order_and_stop_in_reverse_on_a_signal(
    start: Callable[..., Service], number: signal.Signals
) -> None:
    service = start()
    service.wait_line("serving")
    ready = json.loads(service.ready.read_text())
    assert ready["pid"] == service.process.pid
    assert ready["a_port"] == 7
    assert ready["metrics_port"] > 0
    code, did, _ = service.end(number)
    assert (code, did) == (0, ["start a", "start b", "stop b", "stop a"])
    assert not service.ready.exists()


def test_a_part_that_cannot_start_ends_the_service_with_a_clear_line(start: Callable[..., Service]) -> None:
    service = start(mode="fail")
    code, did, log = service.end()
    assert (code, did) == (1, ["start a", "start b", "stop b", "stop a"])
    assert "cannot start  reason='the port is in use'" in log


def test_a_background_crash_ends_the_service_with_its_traceback(start: Callable[..., Service]) -> None:
    service = start(mode="crash")
    code, did, log = service.end()
    assert (code, did) == (1, ["start a", "start b", "stop b", "stop a"])
    assert "RuntimeError: background is broken" in log


def test_a_signal_ends_a_start_that_hangs(start: Callable[..., Service]) -> None:
    service = start(mode="hang")
    assert service.process.stdout is not None
    assert [service.process.stdout.readline() for _ in range(2)] == ["start a\n", "start b\n"]
    code, did, _ = service.end(signal.SIGTERM)
    assert (code, did) == (0, ["stop b", "stop a"])


def test_a_part_that_fails_to_stop_keeps_no_other_from_it(start: Callable[..., Service]) -> None:
    service = start(mode="stubborn")
    service.wait_line("serving")
    code, did, log = service.end(signal.SIGTERM)
    assert (code, did[-2:]) == (0, ["stop b", "stop a"])
    assert "will not stop" in log


def test_a_wrong_setting_is_named_and_a_misspelt_one_is_told(start: Callable[..., Service]) -> None:
    service = start(metrics_port="many")
    code, did, log = service.end()
    assert (code, did) == (2, []), "a supervisor need not try again"
    assert "setting QONDUIT_DEMO_METRICS_PORT" in log
    service = start(mood="x")
    service.wait_line("QONDUIT_DEMO_MOOD")


async def test_periodic_work_goes_on_after_a_failed_round() -> None:
    rounds = 0
    third = asyncio.Event()

    async def work() -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 3:
            third.set()
        raise OSError("this round failed")

    periodic = Periodic(0.001, work)
    await periodic.start()
    await third.wait()
    await periodic.stop()
    await periodic.stop()


async def test_background_work_that_ends_is_a_failure_and_a_stopped_one_is_none() -> None:
    async def ends() -> None:
        return

    async def runs() -> None:
        await asyncio.Event().wait()

    short, long = Background(ends, name="short"), Background(runs)
    await short.start()
    await long.start()
    assert "short ended by itself" in str(await short.failure())
    watching = asyncio.ensure_future(long.failure())
    await long.stop()
    await long.stop()
    assert not watching.done()
    watching.cancel()
