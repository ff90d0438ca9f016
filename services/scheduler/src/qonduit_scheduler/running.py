"""How many jobs of each user have a place on a worker, and the most that may have one at a time."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class RunningJobs:
    """The places that users' jobs have, or may have: what isn't known for certain after a takeover counts too.

    A place is a driver's lease by its id, or a job by its id whose driver's worker has not told of it yet.
    """

    most: dict[str, int] = field(default_factory=dict)
    """By user; those without a limit are missing."""
    freed: dict[str, None] = field(default_factory=dict)
    """Users who may have come below their limit since this was looked at last, in that order."""
    _places: dict[str, set[str]] = field(default_factory=dict)

    def count(self, user: str) -> int:
        """Return how many places a user's jobs have."""
        return len(self._places.get(user, ()))

    def full(self, user: str) -> bool:
        """Whether none of a user's jobs may get a place now."""
        most = self.most.get(user)
        return most is not None and self.count(user) >= most

    def set_most(self, user: str, most: int | None) -> None:
        """Set how many jobs of a user may have a place; None for no limit."""
        if most == self.most.get(user):
            return
        if most is None:
            del self.most[user]
        else:
            self.most[user] = most
        self.freed[user] = None

    def take(self, user: str, place: str) -> None:
        """Count a place; again changes nothing."""
        self._places.setdefault(user, set()).add(place)

    def give_back(self, user: str, place: str) -> None:
        """Count a place no longer; again changes nothing."""
        places = self._places.get(user)
        if places is None or place not in places:
            return
        places.remove(place)
        if not places:
            del self._places[user]
        if user in self.most:
            self.freed[user] = None
