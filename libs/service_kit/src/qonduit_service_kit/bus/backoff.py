"""Waits between attempts."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 5.0


def backoff_s(failures: int, *, draw: Callable[[float, float], float] = random.uniform) -> float:
    """Return a wait in seconds, with full jitter, after so many failures in a row.

    Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    ceiling: float = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** min(failures, 16))
    return draw(0.0, ceiling)
