"""Settings of a service: one typed object, read once from the environment at start."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
)

from qonduit_service_kit.logs import SECRET, redact_text


class ServiceSettings(BaseSettings):
    """What every service has. Subclass with its prefix: `class X(ServiceSettings, env_prefix="QONDUIT_X_")`."""

    model_config = SettingsConfigDict(env_prefix="QONDUIT_", frozen=True, extra="ignore", env_ignore_empty=True)

    amqp_url: SecretStr = Field(
        default=SecretStr("amqp://guest:guest@127.0.0.1:5672/"), description="RabbitMQ, with user, password and vhost."
    )
    data_dir: Path = Field(default=Path(".qonduit"), description="Folder for everything the service keeps.")
    metrics_host: str = Field(default="127.0.0.1", description="Address that /metrics listens on.")
    metrics_port: int = Field(default=0, ge=0, le=65535, description="Port of /metrics; 0 takes a free one.")
    log_format: Literal["text", "json"] = Field(default="text", description="Readable lines, or a JSON object a line.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="The least that is logged."
    )
    otlp_endpoint: str = Field(
        default_factory=lambda: os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", ""),
        description="Collector that traces go to by OTLP over gRPC, such as http://127.0.0.1:4317; empty for none.",
    )
    trace_ratio: float = Field(default=1.0, ge=0, le=1, description="Share of the traces begun here that are kept.")
    internal_key_file: Path | None = Field(default=None, description="File with the key that tickets are signed with.")
    ready_file: Path | None = Field(
        default=None, description="Written, with the ports in use, once the service serves."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read the environment, then the folder that QONDUIT_SECRETS_DIR names: a file a setting, with its name."""
        folder = os.environ.get("QONDUIT_SECRETS_DIR")
        sources = (init_settings, env_settings, dotenv_settings, file_secret_settings)
        if not folder:
            return sources
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"QONDUIT_SECRETS_DIR is no folder: {folder}")
        return (*sources, SecretsSettingsSource(settings_cls, folder))

    @classmethod
    def unknown_names(cls) -> list[str]:
        """Return environment variables with this service's prefix that are no setting: most likely misspelt."""
        prefix = str(cls.model_config.get("env_prefix", ""))
        known = {f"{prefix}{name}".upper() for name in cls.model_fields}
        return sorted(name for name in os.environ if name.upper().startswith(prefix) and name.upper() not in known)

    def describe(self) -> dict[str, str]:
        """Return every setting as text, without the secrets."""
        described: dict[str, str] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            described[name] = _without_secret(value)
        return described


def _without_secret(value: object) -> str:
    if isinstance(value, SecretStr):
        text = value.get_secret_value()
        return redact_text(text) if "://" in text else (SECRET if text else "")
    return redact_text(str(value))
