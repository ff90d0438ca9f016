"""Metrics of what is asked of IBM, each defined once; an account has the name that the operator gave it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import Counter
from qonduit_service_kit.metrics import REGISTRY

if TYPE_CHECKING:
    from qonduit_qpu_broker.ibm.rest import UpstreamError

REQUESTS: Final = Counter(
    "qonduit_qpu_upstream_requests",
    "Requests sent to a provider: ok, rejected, or throttled, refused (credentials), fault (theirs or the network's).",
    ["account", "method", "outcome"],
    registry=REGISTRY,
)
RETRIES: Final = Counter(
    "qonduit_qpu_upstream_retries",
    "Times that a request, or the submission of a job, had to be tried again.",
    ["account", "what"],
    registry=REGISTRY,
)


def outcome_of(error: UpstreamError) -> str:
    """Return what metrics call an error."""
    if error.refused:
        return "refused"
    if error.throttled:
        return "throttled"
    return "fault" if error.fault else "rejected"
