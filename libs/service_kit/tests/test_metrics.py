from __future__ import annotations

import urllib.request

import pytest
from prometheus_client import CollectorRegistry, Counter
from qonduit_service_kit.bus.metrics import metrics_for
from qonduit_service_kit.metrics import MetricsServer, build_info


def read(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        text: str = answer.read().decode()
        return text


async def test_what_is_counted_is_served_on_a_port_of_its_own() -> None:
    registry = CollectorRegistry()
    Counter("demo_total", "A demo.", registry=registry).inc(3)
    build_info("gateway", registry=registry)
    build_info("gateway", registry=registry)
    server = MetricsServer(registry=registry)
    await server.start()
    text = read(server.port)
    assert server.ports == {"metrics_port": server.port}
    assert "demo_total 3.0" in text
    assert 'qonduit_build_info{python="3' in text
    await server.stop()
    await server.stop()
    with pytest.raises(OSError, match="refused"):
        read(server.port)


async def test_a_taken_port_is_named() -> None:
    first = MetricsServer(registry=CollectorRegistry())
    await first.start()
    second = MetricsServer(port=first.port, registry=CollectorRegistry())
    with pytest.raises(OSError, match=f"cannot serve metrics on 127.0.0.1:{first.port}"):
        await second.start()
    await second.stop()
    await first.stop()


def test_two_buses_of_a_process_share_their_metrics() -> None:
    registry = CollectorRegistry()
    assert metrics_for(registry) is metrics_for(registry)
    assert metrics_for(None) is not metrics_for(None)
