"""What all servicers share: tickets, errors, time limits, metrics."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from qonduit_storage.servicers.border import Border, timely

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Iterator

    from qonduit_storage.access import Access, Doorkeeper
    from qonduit_storage.metrics import StorageMetrics

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Desk:
    """Where each call is received."""

    doorkeeper: Doorkeeper
    metrics: StorageMetrics
    upload_idle_s: float

    @contextmanager
    def serving(self, context: Any) -> Iterator[Access]:
        """Around the whole of a call: gives the caller's rights, and translates errors."""
        with Border(self.metrics).crossing():
            yield self.doorkeeper.admit(context.invocation_metadata())

    @contextmanager
    def receiving(self, requests: AsyncIterable[T], context: Any) -> Iterator[tuple[Access, AsyncIterator[T]]]:
        """Around the whole of an upload: as ``serving``, and gives its messages, each of which must come in time."""
        with self.serving(context) as access:
            yield access, timely(requests, self.upload_idle_s)
