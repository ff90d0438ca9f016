"""What waits: drivers and wanted executors, in lanes by (user, shape).

All of a lane fits or none of it does, so a decision looks at lanes and never at the entries behind
their heads: its cost doesn't grow with the number of entries that wait.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass, field
from heapq import merge
from itertools import islice
from typing import TYPE_CHECKING, Final, TypeAlias

from qonduit_service_kit.messages import LeaseKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from qonduit_service_kit.messages import Shape

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
class Lane:
    """What waits of one user and shape: all of it fits or none does."""

    held: bool
    """Whether its drivers don't wait for room, as their user has as many jobs running as may."""
    drivers: list[EntryKey] = field(default_factory=list)
    executors: list[EntryKey] = field(default_factory=list)
    head: EntryKey | None = None
    """The first that waits for room, as the line knows it."""

    def keys(self) -> Iterable[EntryKey]:
        """Return what waits for room, in order."""
        if self.held or not self.drivers:
            return self.executors
        return merge(self.drivers, self.executors) if self.executors else self.drivers

    def of(self, kind: LeaseKind) -> list[EntryKey]:
        """Return all of a kind, in order."""
        return self.drivers if kind is LeaseKind.DRIVER else self.executors


@dataclass(slots=True)
class WaitingLine:
    """All entries, by lane; lanes know their shapes, shapes are sorted by cpu.

    Drivers of users who are held are in it too, and seen by nobody who looks for what wants room.
    """

    entries: dict[EntryKey, Entry] = field(default_factory=dict)
    lanes: dict[str, dict[Shape, Lane]] = field(default_factory=dict)
    due: dict[Shape, list[tuple[float, str]]] = field(default_factory=dict)
    """By shape: (when due, user) of the head of each lane, soonest first."""
    work_ms: int = 0
    """Of all that waits for room together."""
    held: set[str] = field(default_factory=set)
    """Users whose drivers don't wait for room."""
    _admitted_at: dict[str, float] = field(default_factory=dict)
    _drivers_work_ms: dict[str, int] = field(default_factory=dict)
    _shapes: list[Shape] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.entries)

    def has_shape(self, shape: Shape) -> bool:
        """Whether anything of this shape waits for room."""
        return shape in self.due

    def shapes(self) -> list[Shape]:
        """Return the distinct shapes of all entries, smallest cpu first."""
        held = {shape for user in self.held for shape in self.lanes.get(user, ())}
        return sorted(held.union(self._shapes)) if held else list(self._shapes)

    def shapes_up_to(self, cpu_millis: int) -> list[Shape]:
        """Return the distinct shapes that wait for room and need at most this much cpu."""
        end = bisect_right(self._shapes, cpu_millis, key=lambda shape: shape.cpu_millis)
        return self._shapes[:end]

    def add(self, entry: Entry) -> None:
        """Put an entry in; its key must not be there yet."""
        self.entries[entry.key] = entry
        self._count_work(entry, entry.work_ms)
        lanes = self.lanes.setdefault(entry.user, {})
        lane = lanes.get(entry.shape)
        if lane is None:
            lane = lanes[entry.shape] = Lane(held=entry.user in self.held)
        insort(lane.of(entry.kind), entry.key)
        self._find_head(entry.user, entry.shape, lane)

    def remove(self, key: EntryKey) -> None:
        """Take an entry out; KeyError if it isn't there."""
        entry = self.entries.pop(key)
        self._count_work(entry, -entry.work_ms)
        lanes = self.lanes[entry.user]
        lane = lanes[entry.shape]
        keys = lane.of(entry.kind)
        del keys[bisect_left(keys, key)]
        self._find_head(entry.user, entry.shape, lane)
        if lane.drivers or lane.executors:
            return
        del lanes[entry.shape]
        if not lanes:
            del self.lanes[entry.user]
            self._admitted_at.pop(entry.user, None)

    def hold(self, user: str) -> None:
        """Let a user's drivers no longer wait for room."""
        self.held.add(user)
        self._admitted_at.pop(user, None)
        self.work_ms -= self._drivers_work_ms.get(user, 0)
        self._set_held(user, held=True)

    def admit(self, user: str, now: float) -> None:
        """Let a user's drivers wait for room again."""
        self.held.remove(user)
        if user in self.lanes:
            self._admitted_at[user] = now
        self.work_ms += self._drivers_work_ms.get(user, 0)
        self._set_held(user, held=False)

    def is_held(self, entry: Entry) -> bool:
        """Whether an entry waits for others of its user to end, not for room."""
        return entry.kind is LeaseKind.DRIVER and entry.user in self.held

    def wants_room_since(self, entry: Entry) -> float:
        """Return since when an entry waits for room: what its user's limit made it wait is nobody's debt."""
        since = self._admitted_at.get(entry.user)
        return (
            entry.waiting_since
            if since is None or entry.kind is not LeaseKind.DRIVER
            else max(since, entry.waiting_since)
        )

    def heads(self) -> Iterator[Entry]:
        """Yield the first entries of each shape's lanes, of no more users than are compared, soonest due first."""
        for shape, dues in self.due.items():
            for _, user in islice(dues, USERS_COMPARED):
                head = self.lanes[user][shape].head
                if head is not None:
                    yield self.entries[head]

    def of_shape(self, shape: Shape) -> list[Entry]:
        """Return all entries of a shape, in each user's order."""
        lanes = [lanes[shape] for lanes in self.lanes.values() if shape in lanes]
        return [self.entries[key] for lane in lanes for key in merge(lane.drivers, lane.executors)]

    def _set_held(self, user: str, *, held: bool) -> None:
        for shape, lane in self.lanes.get(user, {}).items():
            lane.held = held
            self._find_head(user, shape, lane)

    def _count_work(self, entry: Entry, change_ms: int) -> None:
        if entry.kind is LeaseKind.DRIVER:
            work_ms = self._drivers_work_ms.get(entry.user, 0) + change_ms
            if work_ms:
                self._drivers_work_ms[entry.user] = work_ms
            else:
                self._drivers_work_ms.pop(entry.user, None)
            if entry.user in self.held:
                return
        self.work_ms += change_ms

    def _find_head(self, user: str, shape: Shape, lane: Lane) -> None:
        """Make the order of the shape's lanes agree with what is first in one of them."""
        former, lane.head = lane.head, next(iter(lane.keys()), None)
        if lane.head == former:
            return
        dues = self.due.setdefault(shape, [])
        if not dues:
            insort(self._shapes, shape)
        if former is not None:
            del dues[bisect_left(dues, (former[1], user))]
        if lane.head is not None:
            insort(dues, (lane.head[1], user))
        if not dues:
            del self.due[shape]
            del self._shapes[bisect_left(self._shapes, shape)]
