"""Logs of a service: one event a line, readable or JSON, never with a secret."""

from __future__ import annotations

import logging
import re
import sys
from typing import TYPE_CHECKING, Any

import structlog

from qonduit_service_kit import tracing

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor, WrappedLogger

SECRET = "***"  # noqa: S105 - what stands in a secret's place.
_SECRET_KEY = re.compile(
    r"token|password|secret|authorization|credential|ticket|cookie|api_?key|internal_key", re.IGNORECASE
)
_URL_PASSWORD = re.compile(r"(\w+://[^/\s:@]*):[^/\s@]+@")
_BEARER = re.compile(r"(?i)\b(bearer|apikey)\s+[\w.~+/=-]{8,}")
_JWT = re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def redact_text(text: str) -> str:
    """Return the text with passwords in URLs, bearer tokens and signed tickets masked."""
    if "://" in text:
        text = _URL_PASSWORD.sub(rf"\1:{SECRET}@", text)
    return _JWT.sub(SECRET, _BEARER.sub(rf"\1 {SECRET}", text))


_NO_SECRET = re.compile(r"(_file|_path|_dir|_id)$")


def _redacted(key: str, value: Any) -> Any:
    if _SECRET_KEY.search(key) and not _NO_SECRET.search(key) and isinstance(value, str | bytes) and value:
        return SECRET
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, dict):
        return {name: _redacted(str(name), inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted("", inner) for inner in value]
    return value


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Mask secrets in an event, by the names of its fields and the look of its texts."""
    return {key: _redacted(key, value) for key, value in event.items()}


def _as_line(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """Render one readable line, followed by a traceback if there is one."""
    time = str(event.pop("timestamp", ""))
    level = str(event.pop("level", "info")).upper()
    service = event.pop("service", "")
    text = str(event.pop("event", ""))
    trace = event.pop("exception", None)
    event.pop("logger", None)
    fields = " ".join(f"{key}={_quoted(value)}" for key, value in sorted(event.items()))
    line = _CONTROL.sub("?", f"{time} {level:<7} {service}: {text}" + (f"  {fields}" if fields else ""))
    line = line.replace("\n", "\\n")
    return f"{line}\n{trace}" if trace else line


def _quoted(value: Any) -> str:
    text = str(value)
    return repr(text) if " " in text or not text else text


def configure(service: str, log_format: str = "text", level: str = "INFO") -> None:
    """Set up structlog and the standard library's logging of this process; writes to stderr."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _trace_ids,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="%Y-%m-%dT%H:%M:%S.%fZ", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        _adding(service),
        redact,
    ]
    render: Processor = structlog.processors.JSONRenderer(default=str) if log_format == "json" else _as_line
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # Libraries speak up only when something is wrong.
    for noisy in ("asyncio", "alembic", "grpc", "sqlalchemy", "httpx", "aiohttp", "qiskit", "stevedore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)


def _trace_ids(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Name the trace that a line belongs to, so that one leads to the other."""
    if (ids := tracing.ids(tracing.current())) is not None:
        event["trace_id"], event["span_id"] = ids
    return event


def _adding(service: str) -> Processor:
    def add(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event.setdefault("service", service)
        return event

    return add


def get_logger(name: str = "") -> Any:
    """Return a structlog logger; bind fields with `.bind(job=...)`, log with `.info("text", field=...)`."""
    return structlog.get_logger(name) if name else structlog.get_logger()
