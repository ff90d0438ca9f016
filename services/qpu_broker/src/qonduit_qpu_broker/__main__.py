"""`python -m qonduit_qpu_broker`."""

from __future__ import annotations

from qonduit_service_kit.lifecycle import main

from qonduit_qpu_broker.service import build
from qonduit_qpu_broker.settings import QpuBrokerSettings

if __name__ == "__main__":
    main("qpu_broker", QpuBrokerSettings, build)
