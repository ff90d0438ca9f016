"""Users' dominant shares of the cluster, and the users that wait sorted by them."""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from qonduit_scheduler.policy import dominant_share
from qonduit_scheduler.shapes import NOTHING, add, subtract

if TYPE_CHECKING:
    from qonduit_service_kit.messages import Shape


@dataclass(slots=True)
class Fairness:
    """What each user holds, and the users that wait sorted by (share, name)."""

    total: Shape = NOTHING
    used: dict[str, Shape] = field(default_factory=dict)
    order: list[tuple[float, str]] = field(default_factory=list)
    _ranked: dict[str, float] = field(default_factory=dict)

    def share(self, user: str) -> float:
        """Return a user's dominant share of the cluster, 0 to 1."""
        return dominant_share(self.used.get(user, NOTHING), self.total)

    def share_of_waiting(self, user: str) -> float:
        """Return the share of a user who waits, without computing it again."""
        return self._ranked[user]

    def entitled(self) -> float:
        """Return the fair share of each user who holds or wants anything, 0 to 1."""
        return 1 / max(1, len(self.used.keys() | self._ranked.keys()))

    def take(self, user: str, shape: Shape) -> None:
        """Count a shape as held by a user."""
        self.used[user] = add(self.used.get(user, NOTHING), shape)
        self._rank_again(user)

    def give_back(self, user: str, shape: Shape) -> None:
        """Count a shape as no longer held."""
        left = subtract(self.used[user], shape)
        if left == NOTHING:
            del self.used[user]
        else:
            self.used[user] = left
        self._rank_again(user)

    def start_waiting(self, user: str) -> None:
        """Rank a user among those who wait; again changes nothing."""
        if user not in self._ranked:
            self._insert(user)

    def stop_waiting(self, user: str) -> None:
        """Take a user out of the ranking."""
        share = self._ranked.pop(user)
        del self.order[bisect_left(self.order, (share, user))]

    def resize(self, total: Shape) -> None:
        """Set the cluster's capacity; every share changes."""
        if total == self.total:
            return
        self.total = total
        users = list(self._ranked)
        self.order.clear()
        for user in users:
            self._insert(user)

    def _rank_again(self, user: str) -> None:
        if user in self._ranked:
            self.stop_waiting(user)
            self._insert(user)

    def _insert(self, user: str) -> None:
        share = self.share(user)
        self._ranked[user] = share
        insort(self.order, (share, user))
