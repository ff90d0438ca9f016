"""Settings, read once from QONDUIT_STORAGE_*."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - pydantic reads the annotations.

from pydantic import Field
from pydantic_settings import SettingsConfigDict
from qonduit_service_kit.settings import ServiceSettings

_MIB = 1024**2
_GIB = 1024**3


class StorageSettings(ServiceSettings):
    """What the storage service can be told. It has no bus connection, so ``amqp_url`` does nothing here."""

    model_config = SettingsConfigDict(env_prefix="QONDUIT_STORAGE_")

    listen_host: str = Field("127.0.0.1", description="Address to serve gRPC on.")
    listen_port: int = Field(0, ge=0, le=65535, description="Port to serve gRPC on; 0 takes a free one.")
    tls_cert: Path | None = Field(None, description="Certificate chain (PEM) to serve with.")
    tls_key: Path | None = Field(None, description="Private key (PEM) of the certificate.")
    allow_insecure: bool = Field(default=False, description="Listen beyond loopback without TLS.")
    log_cap_bytes: int = Field(50 * _MIB, ge=4096, description="How much of each log is kept: the newest bytes.")
    log_segment_bytes: int = Field(_MIB, ge=512, description="Size of the files that a log is kept in.")
    log_sync_interval_s: float = Field(0.2, ge=0, description="Seconds of log that one fsync makes durable.")
    min_free_bytes: int = Field(256 * _MIB, ge=0, description="Free space below which uploads are refused.")
    max_file_bytes: int = Field(16 * _GIB, ge=1, description="Largest file of a user.")
    max_blob_bytes: int = Field(16 * _GIB, ge=1, description="Largest artifact, argument, or result.")
    unfold_free_bytes: int = Field(256 * _MIB, ge=0, description="Bytes any gzip may unfold to, however small it is.")
    unfold_limit_bytes: int = Field(
        64 * _GIB, ge=1, description="Bytes no gzip may unfold beyond, however large it is."
    )
    upload_idle_s: float = Field(60, gt=0, description="Seconds after which an upload that sends nothing is ended.")
    partial_kept_s: float = Field(
        24 * 3600, ge=0, description="Seconds for which an upload that broke off can go on where it stopped."
    )
    s3_bucket: str = Field("", description="Bucket that keeps blobs and files; without it the data folder does.")
    s3_prefix: str = Field("", description="What keys in the bucket begin with; one service uses it alone.")
    s3_endpoint: str = Field("", description="Address of the store, such as http://127.0.0.1:9000; without it AWS.")
    s3_region: str = Field("us-east-1", description="Region of the bucket.")
    s3_patience_s: float = Field(60, gt=0, description="Seconds for which a request that the store fails is repeated.")
    io_threads: int = Field(16, ge=1, description="Threads for reading, writing and fsync.")
