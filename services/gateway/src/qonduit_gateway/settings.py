"""Settings of the gateway: environment variables with the prefix QONDUIT_GATEWAY_."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - pydantic reads the annotations.

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict
from qonduit_service_kit.messages import Shape
from qonduit_service_kit.settings import ServiceSettings

from qonduit_gateway.rest.holding import HOLD_S

_MIB = 1024**2
_GIB = 1024**3
_HOUR_S = 3600.0


class GatewaySettings(ServiceSettings):
    """What can be set."""

    model_config = SettingsConfigDict(env_prefix="QONDUIT_GATEWAY_")

    listen_host: str = Field(default="127.0.0.1", description="Address that the gRPC API listens on.")
    listen_port: int = Field(default=0, ge=0, le=65535, description="Port of the gRPC API; 0 takes a free one.")
    rest: bool = Field(default=True, description="Also serve clients of Qiskit Serverless, by REST.")
    rest_host: str = Field(default="127.0.0.1", description="Address that the REST front listens on.")
    rest_port: int = Field(default=0, ge=0, le=65535, description="Port of the REST front; 0 takes a free one.")
    rest_hold_s: float = Field(
        default=HOLD_S,
        ge=0,
        le=25,
        description="Longest that a client's poll is held until its job is over; 0 is never.",
    )
    tls_cert: Path | None = Field(
        default=None, description="Certificate chain (PEM) of the gRPC API and the REST front."
    )
    tls_key: Path | None = Field(default=None, description="Private key (PEM) of the gRPC API and the REST front.")
    allow_insecure: bool = Field(default=False, description="Listen beyond loopback without TLS.")

    database_url: SecretStr = Field(
        default=SecretStr(""), description="sqlite:/// or postgresql://; empty is SQLite in data_dir."
    )
    database_busy_timeout_s: float = Field(
        default=5.0, gt=0, description="Seconds to wait for a lock before UNAVAILABLE."
    )
    storage_address: str = Field(default="127.0.0.1:7071", description="host:port of the storage service.")
    storage_ca: Path | None = Field(default=None, description="CA (PEM) of the storage service; without it no TLS.")

    admin_user: str = Field(default="admin", description="Administrator that admin_token_file's token belongs to.")
    admin_token_file: Path | None = Field(
        default=None, description="File with a token that is valid from the start on."
    )

    metrics_by_user: bool = Field(
        default=False, description="Also count jobs, CPU and QPU seconds a user: some series more for each."
    )

    artifact_limit_bytes: int = Field(default=50 * _MIB, gt=0, description="Most bytes an artifact may have.")
    default_cpu_millis: int = Field(
        default=1000, gt=0, description="Cpu of a driver that asks for none, in 1/1000 core."
    )
    default_mem_bytes: int = Field(
        default=2 * _GIB, gt=0, description="Memory of a driver that asks for none, in bytes."
    )
    limit_cpu_millis: int = Field(default=16_000, gt=0, description="Most cpu of one job's executors, in 1/1000 core.")
    limit_mem_bytes: int = Field(default=32 * _GIB, gt=0, description="Most memory of one job's executors, in bytes.")
    limit_gpus: int = Field(default=16, ge=0, description="Most GPUs of one job's executors.")
    limit_qpu_seconds: float = Field(
        default=0.0, ge=0, description="Most QPU seconds that a user may use in any 28 days; 0 for no limit."
    )
    limit_file_bytes: int = Field(
        default=100 * _GIB, ge=0, description="Most bytes that a user's files may have together; 0 for no limit."
    )
    limit_active_jobs: int = Field(
        default=1000, ge=0, description="Most jobs of a user that may not be over at a time; 0 for no limit."
    )
    limit_running_jobs: int = Field(
        default=0,
        ge=0,
        description="Most jobs of a user that may have a place at a time, while the others wait; 0 for no limit.",
    )
    default_time_limit_s: float = Field(default=24 * _HOUR_S, gt=0, description="Time limit of a job that sets none.")
    max_time_limit_s: float = Field(default=7 * 24 * _HOUR_S, gt=0, description="Longest time limit a job may set.")
    max_attempts: int = Field(default=4, gt=0, description="How often a job is tried whose workers are lost.")

    job_retention_s: float = Field(
        default=0.0, ge=0, description="Seconds for which jobs that are over are kept; 0 for ever."
    )
    blob_grace_s: float = Field(
        default=300.0, gt=0, description="Seconds after which the bytes of a deleted job may go."
    )
    blob_unused_s: float = Field(
        default=8 * 24 * _HOUR_S,
        gt=0,
        description="Seconds after which bytes go that no job or function has; more than the longest job takes.",
    )
    collect_interval_s: float = Field(default=60.0, gt=0, description="Seconds between looks for what may go.")
    tell_again_s: float = Field(
        default=10.0, gt=0, description="Seconds of silence before scheduler or worker are told again."
    )
    sweep_interval_s: float = Field(
        default=5.0, gt=0, description="Seconds between looks for jobs that nobody spoke of."
    )
    qpu_timeout_s: float = Field(default=10.0, gt=0, description="Seconds to wait for the QPU broker's answer.")

    @property
    def database(self) -> str:
        """The database's URL."""
        return self.database_url.get_secret_value() or f"sqlite:///{self.data_dir.absolute() / 'gateway.db'}"

    @property
    def default_shape(self) -> Shape:
        """What a driver gets that asks for nothing."""
        return Shape(self.default_cpu_millis, self.default_mem_bytes)

    @property
    def limit_shape(self) -> Shape:
        """The most that one job's executors may hold together."""
        return Shape(self.limit_cpu_millis, self.limit_mem_bytes, self.limit_gpus)
