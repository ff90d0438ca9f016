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

    def timely(self, messages: AsyncIterable[T]) -> AsyncIterator[T]:
        """The messages of an upload, none of which may keep us waiting too long."""
        return timely(messages, self.upload_idle_s)
