"""Settings of the QPU broker, from QONDUIT_QPU_BROKER_*."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict
from qonduit_service_kit.settings import ServiceSettings


class QpuBrokerSettings(ServiceSettings):
    """What the broker can be told."""

    model_config = SettingsConfigDict(env_prefix="QONDUIT_QPU_BROKER_")

    storage_address: str = Field("127.0.0.1:7003", description="The storage service, host:port.")
    simulator_noise: Literal["ideal", "noisy"] = Field(
        "ideal", description="Whether local devices show the errors that their properties tell of."
    )
    queue_delay_s: float = Field(0.3, ge=0, description="Seconds a job waits at least for a local device.")
    max_qubits: int = Field(24, ge=1, le=40, description="Most qubits that one simulated circuit may use.")
    simulator_memory_bytes: int = Field(4 * 1024**3, ge=1024**3, description="Memory of the simulator's process.")
    simulator_time_limit_s: float = Field(600.0, gt=0, description="Longest that one job may simulate.")
    simulator_idle_s: float = Field(
        600.0, gt=0, description="The simulator's process is ended when no program has looked at devices for this long."
    )
    simulator_threads: int = Field(2, ge=1, description="Threads of the simulator's process.")
    max_body_bytes: int = Field(64 * 1024**2, gt=0, description="Largest job that is accepted.")
