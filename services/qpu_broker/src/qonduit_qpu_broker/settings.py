"""Settings of the QPU broker, from QONDUIT_QPU_BROKER_*."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 -- pydantic reads it.
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict
from qonduit_service_kit.settings import ServiceSettings


class QpuBrokerSettings(ServiceSettings):
    """What the broker can be told."""

    model_config = SettingsConfigDict(env_prefix="QONDUIT_QPU_BROKER_")

    storage_address: str = Field("127.0.0.1:7003", description="The storage service, host:port.")
    storage_ca: Path | None = Field(None, description="CA (PEM) of the storage service; without it no TLS.")
    simulator_noise: Literal["ideal", "noisy"] = Field(
        "ideal", description="Whether local devices show the errors that their properties tell of."
    )
    simulator_noise_cache_bytes: int = Field(
        64 * 1024**2, ge=0, description="Most that kept noise models may take on disk; 0 keeps none."
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
    session_max_ttl_s: int = Field(28_800, ge=60, description="Longest that a session or batch may last, in seconds.")
    ibm_accounts_file: Path | None = Field(
        None, description="File with the IBM accounts to use (JSON, of mode 0600); read again on SIGHUP."
    )
    ibm_token: SecretStr = Field(SecretStr(""), description="API key of an IBM account, instead of a file.")
    ibm_instance: str = Field("", description="With ibm_token: the instance, its CRN or its name; empty for all.")
    ibm_url: str = Field("https://cloud.ibm.com", description="With ibm_token: where the account is.")
    ibm_poll_s: float = Field(
        0.8,
        gt=0,
        description="Seconds between two looks at IBM's jobs; up to ten times that while nothing changes.",
    )
    ibm_doubt_s: float = Field(
        60.0, ge=0, description="How long a job that may have been submitted is looked for before it is sent again."
    )
    ibm_results_s: float = Field(900.0, ge=0, description="How long a result that can't be read is asked for.")
    session_idle_s: float = Field(
        300.0, gt=0, description="An IBM session without jobs for this long is closed; the next job opens another."
    )
    local_devices: bool | None = Field(
        None, description="Whether simulated devices are offered; by default only without an IBM account."
    )
