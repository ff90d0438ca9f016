"""Spans to a collector by OTLP over gRPC, through OpenTelemetry's SDK: batched, in a thread of its own.

What the standard's variables say beside the endpoint (`OTEL_EXPORTER_OTLP_HEADERS`, `_CERTIFICATE`, `_TIMEOUT`,
`OTEL_BSP_...`, `OTEL_RESOURCE_ATTRIBUTES`) holds. A collector that is away costs spans, never a job.
"""

from __future__ import annotations

import threading
import uuid
from typing import TYPE_CHECKING, Final

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from qonduit_service_kit import tracing
from qonduit_service_kit.logs import redact_text

if TYPE_CHECKING:
    from qonduit_service_kit.tracing import Span

_KINDS: Final = {"internal": SpanKind.INTERNAL, "server": SpanKind.SERVER, "client": SpanKind.CLIENT}
_NANO: Final = 1_000_000_000
_CLOSE_S: Final = 5.0
_ERROR_LENGTH: Final = 500


class OtlpExporter:
    """Exports the spans of one service."""

    def __init__(self, service: str, endpoint: str) -> None:
        self._resource = Resource.create(
            {"service.namespace": "qonduit", "service.name": service, "service.instance.id": uuid.uuid4().hex}
        )
        self._exporter = OTLPSpanExporter(endpoint=endpoint)
        self._processor = BatchSpanProcessor(self._exporter)

    def export(self, span: Span) -> None:
        """Take a span that is over."""
        context = _context(span.place)
        if context is not None:
            self._processor.on_end(self._readable(span, context))

    def _readable(self, span: Span, context: SpanContext) -> ReadableSpan:
        error = redact_text(span.error)[:_ERROR_LENGTH]
        return ReadableSpan(
            span.name,
            context=context,
            parent=_context(span.parent),
            resource=self._resource,
            attributes=span.attributes,
            kind=_KINDS[span.kind],
            status=Status(StatusCode.ERROR, error) if error else Status(),
            start_time=int(span.start * _NANO),
            end_time=int(max(span.start, span.end) * _NANO),
        )

    def close(self) -> None:
        """Send what is left, and give up after some seconds if the collector is away."""
        giving_up = threading.Timer(_CLOSE_S, self._exporter.shutdown)
        giving_up.start()
        try:
            self._processor.shutdown()  # type: ignore[no-untyped-call]
        finally:
            giving_up.cancel()


def _context(place: str) -> SpanContext | None:
    ids = tracing.ids(place)
    if ids is None:
        return None
    flags = TraceFlags(TraceFlags.SAMPLED if tracing.is_sampled(place) else TraceFlags.DEFAULT)
    return SpanContext(int(ids[0], 16), int(ids[1], 16), is_remote=True, trace_flags=flags)
