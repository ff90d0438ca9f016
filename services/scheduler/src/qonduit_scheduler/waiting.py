"""What waits: drivers and wanted executors, in lanes by (user, shape).

All of a lane fits or none of it does, so a decision looks at lanes and never at the entries behind
their heads: its cost doesn't grow with the number of entries that wait.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qonduit_service_kit.messages import LeaseKind, Shape

USERS_COMPARED: Final = 16
"""Users who want a shape, soonest due first, whose shares are compared: bounds a decision's time."""
EntryKey: TypeAlias = tuple[int, float, str, str]
"""(-priority, due_at, job id, '' or the shape's label): the order within a user, unique in the queue."""


@dataclass(slots=True)
class Entry:
    """One driver, or the executors of one shape that an attempt still wants."""

    key: EntryKey
    kind: LeaseKind
    job_id: str
    attempt: int
    user: str
    shape: Shape
    """What a worker must have free for it: what it asks for, and of a driver the room beside it for tasks."""
    asked: Shape
    """What it will hold."""
    waiting_since: float
    count: int = 1
    asked_for_room_at: float | None = None
    expected_s: float = 0.0
    """Predicted time that it takes once it has its places."""
    holds_s: float = 0.0
    """Predicted time for which a place is held against others' will, infinite if unknown: a driver runs to its end, an
    executor gives its place back after the task in hand."""

    work_ms: int = 0
    """About how long the whole cluster would work for it alone; whole numbers, so that sums don't drift."""
    trusts_until: float | None = None
    """Set with its first reservation: from then on nothing is trusted any more to end in time for it."""

    @property
    def due_at(self) -> float:
        """When it should have begun."""
        return self.key[1]


@dataclass(slots=True)
class WaitingLine:
    """All entries, by lane; lanes know their shapes, shapes are sorted by cpu."""

    entries: dict[EntryKey, Entry] = field(default_factory=dict)
    lanes: dict[str, dict[Shape, list[EntryKey]]] = field(default_factory=dict)
    due: dict[Shape, list[tuple[float, str]]] = field(default_factory=dict)
    """By shape: (when due, user) of the head of each lane, soonest first."""
    work_ms: int = 0
    """Of all that waits together."""
    _shapes: list[Shape] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.entries)

    def has_shape(self, shape: Shape) -> bool:
        """Whether anything of this shape waits."""
        return shape in self.due

    def shapes(self) -> tuple[Shape, ...]:
        """Return the distinct shapes that wait, smallest cpu first."""
        return tuple(self._shapes)

    def shapes_up_to(self, cpu_millis: int) -> list[Shape]:
        """Return the distinct shapes that need at most this much cpu."""
        end = bisect_right(self._shapes, cpu_millis, key=lambda shape: shape.cpu_millis)
        return self._shapes[:end]

    def add(self, entry: Entry) -> None:
        """Put an entry in; its key must not be there yet."""
        self.entries[entry.key] = entry
        self.work_ms += entry.work_ms
        lanes = self.lanes.setdefault(entry.user, {})
        if entry.shape not in self.due:
            insort(self._shapes, entry.shape)
        dues = self.due.setdefault(entry.shape, [])
        lane = lanes.get(entry.shape)
        if lane is None:
            lanes[entry.shape] = [entry.key]
            insort(dues, (entry.due_at, entry.user))
            return
        former = lane[0]
        insort(lane, entry.key)
        if lane[0] != former:
            del dues[bisect_left(dues, (former[1], entry.user))]
            insort(dues, (entry.due_at, entry.user))

    def remove(self, key: EntryKey) -> None:
        """Take an entry out; KeyError if it isn't there."""
        entry = self.entries.pop(key)
        self.work_ms -= entry.work_ms
        lanes = self.lanes[entry.user]
        lane, dues = lanes[entry.shape], self.due[entry.shape]
        position = bisect_left(lane, key)
        del lane[position]
        if position == 0:
            del dues[bisect_left(dues, (entry.due_at, entry.user))]
            if lane:
                insort(dues, (lane[0][1], entry.user))
        if lane:
            return
        del lanes[entry.shape]
        if not lanes:
            del self.lanes[entry.user]
        if not dues:
            del self.due[entry.shape]
            del self._shapes[bisect_left(self._shapes, entry.shape)]

    def heads(self) -> Iterator[Entry]:
        """Yield the first entries of each shape's lanes, of no more users than are compared, soonest due first."""
        for shape, dues in self.due.items():
            for _, user in islice(dues, USERS_COMPARED):
                yield self.entries[self.lanes[user][shape][0]]

    def of_shape(self, shape: Shape) -> list[Entry]:
        """Return all entries of a shape, in each user's order."""
        return [self.entries[key] for lanes in self.lanes.values() if shape in lanes for key in lanes[shape]]
