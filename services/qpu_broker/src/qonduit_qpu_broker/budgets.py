"""What a user and a job may still spend."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qonduit_qpu_broker.ledger.charges import Spent
    from qonduit_qpu_broker.ledger.records import Budget

USER_WINDOW_S = 28 * 24 * 3600.0
"""A user's budget is for any 28 days, as IBM's plans count."""


def refusal(budget: Budget, spent: Spent) -> str:
    """Return why nothing more may be submitted, with the numbers; empty if something may."""
    if budget.job_s is not None and spent.job_s >= budget.job_s:
        return (
            f"This job has used {spent.job_s:.2f} of its {budget.job_s:g} QPU seconds. "
            "Run it with a larger QPU budget, or submit less."
        )
    if budget.user_s is not None and spent.user_s >= budget.user_s:
        return (
            f"You have used {spent.user_s:.2f} of your {budget.user_s:g} QPU seconds of 28 days. "
            "Wait, or ask an administrator for more."
        )
    return ""


def left_s(budget: Budget, spent: Spent) -> float | None:
    """Return the seconds that may still be used; None for no limit."""
    limits = [
        limit - used
        for limit, used in ((budget.job_s, spent.job_s), (budget.user_s, spent.user_s))
        if limit is not None
    ]
    return max(0.0, min(limits)) if limits else None


def most_cost_s(asked_s: int, budget: Budget, spent: Spent) -> int:
    """Return the most seconds that a job may be charged, whole ones; 0 for no limit but the provider's."""
    left = left_s(budget, spent)
    if left is None:
        return asked_s
    return max(1, math.ceil(min(left, asked_s or left)))
