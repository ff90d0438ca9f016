from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry
from qonduit_service_kit import health
from qonduit_service_kit.health import NotWellError, check
from qonduit_service_kit.metrics import MetricsServer
from qonduit_service_kit.rpc import GrpcServer

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def time_to_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is asked is in this process, which may not run for seconds on a busy machine."""
    monkeypatch.setattr(health, "TIMEOUT_S", 60.0)


def grpc_server(**settings: Any) -> GrpcServer:
    return GrpcServer(lambda _server: None, services=[], registry=CollectorRegistry(), **settings)


def certificate(folder: Path) -> dict[str, Path]:
    cert, key = folder / "cert.pem", folder / "key.pem"
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=gateway", "-addext", "subjectAltName=DNS:*.example.org"]
    subprocess.run([*make, "-out", cert, "-keyout", key, *names], check=True, capture_output=True)
    return {"tls_cert": cert, "tls_key": key}


@pytest.mark.parametrize("tls", [False, True])
async def test_a_grpc_server_is_asked_for_its_health(tmp_path: Path, *, tls: bool) -> None:
    if tls and not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    server = grpc_server(**(certificate(tmp_path) if tls else {}))
    await server.start()
    ready = tmp_path / "ready"
    ready.write_text(json.dumps(server.ports))
    await asyncio.to_thread(check, ready)
    await server.stop()
    with pytest.raises(NotWellError, match=f"port {server.port}"):
        await asyncio.to_thread(check, ready)


async def test_a_service_without_grpc_is_asked_for_its_metrics(tmp_path: Path) -> None:
    server = MetricsServer(registry=CollectorRegistry())
    await server.start()
    ready = tmp_path / "ready"
    ready.write_text(json.dumps(server.ports))
    await asyncio.to_thread(check, ready)
    await server.stop()
    with pytest.raises(NotWellError, match="/metrics"):
        await asyncio.to_thread(check, ready)


def test_a_service_that_has_not_started_is_not_well(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "qonduit_service_kit.health", str(tmp_path / "ready")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "not started yet, or stopping: there is no ready file\n"
