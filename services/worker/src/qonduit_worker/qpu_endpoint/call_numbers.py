"""Numbers of posts, by which the broker tells a repeated call from a new one."""

from __future__ import annotations

from collections import Counter


class CallNumbers:
    """Counts how often the same body was posted to the same path.

    A program that runs again posts the same bodies, and so finds the QPU jobs it has made already, in whatever order
    its threads come. A post that was answered with a failure of ours keeps its number: the client repeats it.
    """

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        self._returned: dict[tuple[str, str], list[int]] = {}

    def take(self, path: str, digest: str) -> int:
        """Return the number of a post, from 1."""
        if returned := self._returned.get((path, digest)):
            return returned.pop()
        self._counts[path, digest] += 1
        return self._counts[path, digest]

    def give_back(self, path: str, digest: str, number: int) -> None:
        """Have the next post of this body take this number again."""
        self._returned.setdefault((path, digest), []).append(number)
