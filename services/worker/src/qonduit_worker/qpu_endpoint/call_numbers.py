"""Numbers of posts, by which the broker tells a repeated call from a new one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True, eq=False)
class Number:
    """The number of one post, held until the post is answered.

    Attributes:
        key: Path and digest of the body.
        value: The number, from 1.
        is_lost: Tells whether nobody waits for the answer any more.
    """

    key: tuple[str, str]
    value: int
    is_lost: Callable[[], bool]


@dataclass(slots=True)
class _Posts:
    highest: int = 0
    free: set[int] = field(default_factory=set)
    unanswered: dict[int, Number] = field(default_factory=dict)


class CallNumbers:
    """Counts how often the same body was posted to the same path.

    A program that runs again posts the same bodies, and so finds the QPU jobs it has made already, in whatever order
    its threads come. A post whose answer never arrived gives its number to the next one of the same body, which is
    the same post again: the client or the program repeats it.
    """

    def __init__(self) -> None:
        self._posts: dict[tuple[str, str], _Posts] = {}

    def take(self, path: str, digest: str, is_lost: Callable[[], bool]) -> Number:
        """Return the number of a post."""
        key = path, digest
        posts = self._posts.setdefault(key, _Posts())
        value = next((value for value, other in posts.unanswered.items() if other.is_lost()), 0)
        if not value and posts.free:
            value = min(posts.free)
            posts.free.remove(value)
        if not value:
            value = posts.highest = posts.highest + 1
        number = posts.unanswered[value] = Number(key, value, is_lost)
        return number

    def settle(self, number: Number, *, answered: bool) -> None:
        """Say how a post ended; one that a repeat has taken over changes nothing."""
        posts = self._posts[number.key] if number.key in self._posts else _Posts()
        if posts.unanswered.get(number.value) is not number:
            return
        del posts.unanswered[number.value]
        if not answered:
            posts.free.add(number.value)
        while posts.highest in posts.free:
            posts.free.remove(posts.highest)
            posts.highest -= 1
        if not posts.highest:
            # A program that posts nonsense must not fill the table.
            del self._posts[number.key]
