"""Where in its caller's trace a call belongs, as a W3C `traceparent`."""

from __future__ import annotations

import os
import re
import sys
from typing import Final

_FORM: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def traceparent() -> str:
    """Return OpenTelemetry's current span, where the program uses that, else `$TRACEPARENT`; '' without any."""
    api = sys.modules.get("opentelemetry.trace")  # Never imported for this: who has a span has it.
    if api is not None:
        context = api.get_current_span().get_span_context()
        if context.is_valid:
            return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"
    given = os.environ.get("TRACEPARENT", "")
    return given if _FORM.fullmatch(given) else ""
