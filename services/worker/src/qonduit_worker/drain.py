"""Whether this worker takes nothing new: what its operator said last, kept over restarts."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from qonduit_service_kit.logs import get_logger

if TYPE_CHECKING:
    from pathlib import Path

    from qonduit_service_kit.messages import WorkerDrain

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Order:
    """An operator's word."""

    draining: bool = False
    asked_at: float = 0.0


class DrainOrder:
    """The last order to drain, or to take leases again, in a file of the worker's data folder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._order = _read(path)

    @property
    def draining(self) -> bool:
        """Whether to take nothing new."""
        return self._order.draining

    def take(self, message: WorkerDrain) -> bool:
        """Follow an order unless a later one is known; tell whether anything is new. OSError if it can't be kept.

        A repeated order changes nothing, and of two that cross the later one holds, in whatever order they come.
        """
        if message.asked_at <= self._order.asked_at:
            if message.asked_at < self._order.asked_at:
                _log.warning("an order to drain or resume is older than the last one and left out", **asdict(message))
            return False
        order = _Order(message.draining, message.asked_at)
        # On disk before it is acknowledged: an order that a crash swallows is delivered again.
        part = self._path.with_suffix(".part")
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w") as file:
            json.dump(asdict(order), file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self._path)
        changed = order.draining is not self._order.draining
        self._order = order
        return changed


def _read(path: Path) -> _Order:
    try:
        kept = json.loads(path.read_text())
        return _Order(bool(kept["draining"]), float(kept["asked_at"]))
    except FileNotFoundError:
        return _Order()
    except (ValueError, KeyError, TypeError) as error:
        _log.warning(
            "what the operator said of draining can't be read; taking leases", file=str(path), cause=str(error)
        )
        return _Order()
