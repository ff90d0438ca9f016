"""What must be known of a log besides its bytes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class LogState:
    """Changes only when an attempt begins, and when the log is closed or opened again."""

    log: str
    attempt: int = 0
    attempt_start: int = 0
    """Offset in the log at which this attempt's first byte stands."""
    closed: bool = False

    def to_json(self) -> bytes:
        """The state as it is kept."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, text: bytes) -> LogState:
        """Reads what ``to_json`` wrote; fields of newer versions are ignored."""
        values = json.loads(text)
        return cls(**{name: values[name] for name in cls.__slots__ if name in values})
