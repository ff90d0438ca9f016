"""Which blobs were stored so lately that storage still has them: jobs without arguments all have the same one."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_MOST = 1000


class LatelyStored:
    """Digests of blobs that storage has confirmed, each for so many seconds after it was asked to store it."""

    def __init__(self, remember_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._remember_s = remember_s
        self._clock = clock
        self._asked_at: OrderedDict[str, float] = OrderedDict()

    def __contains__(self, digest: str) -> bool:
        asked_at = self._asked_at.get(digest)
        return asked_at is not None and self._clock() - asked_at < self._remember_s

    def now(self) -> float:
        """Return the time to note with what storage is asked to store next."""
        return self._clock()

    def add(self, digest: str, asked_at: float) -> None:
        """Note that storage has a blob."""
        self._asked_at[digest] = asked_at
        self._asked_at.move_to_end(digest)
        if len(self._asked_at) > _MOST:
            self._asked_at.popitem(last=False)
