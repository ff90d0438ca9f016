"""Fixtures of the client's tests."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from fake_gateway import TOKEN, FakeGateway
from qonduit import ServerlessClient, cli
from stand_ins import amqp_url, environment, stack

__all__ = ["amqp_url", "environment", "stack"]  # Fixtures.

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("ADDRESS", "TOKEN", "PROFILE", "HOME", "CA_FILE", "AGENT_SOCKET"):
        monkeypatch.delenv(f"QONDUIT_{name}", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    running = FakeGateway()
    yield running
    running.stop()


@pytest.fixture
def client(gateway: FakeGateway) -> Iterator[ServerlessClient]:
    with ServerlessClient(host=gateway.address, token=TOKEN) as client:
        yield client


@pytest.fixture
def run(gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setenv("QONDUIT_ADDRESS", gateway.address)
    monkeypatch.setenv("QONDUIT_TOKEN", TOKEN)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["qonduit", *arguments])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        return (code, *capsys.readouterr())

    return run
