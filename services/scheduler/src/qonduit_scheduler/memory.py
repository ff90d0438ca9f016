"""A bounded memory of what is over, so that late and repeated messages are known for what they are."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Memory(Generic[Key, Value]):
    """A mapping that forgets the oldest beyond `limit` entries."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: OrderedDict[Key, Value] = OrderedDict()

    def __contains__(self, key: Key) -> bool:
        return key in self._known

    def get(self, key: Key) -> Value | None:
        """Return what is remembered, or None."""
        return self._known.get(key)

    def remember(self, key: Key, value: Value) -> None:
        """Remember a value as the newest."""
        self._known[key] = value
        self._known.move_to_end(key)
        if len(self._known) > self._limit:
            self._known.popitem(last=False)
