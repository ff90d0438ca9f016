"""How long things will run, predicted from what the same user ran under the same name before."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, Final, TypeAlias

from qonduit_scheduler.memory import Memory

if TYPE_CHECKING:
    from qonduit_service_kit.messages import LeaseKind

_NAMES: Final = 20_000
_USERS: Final = 5_000
_OF_A_NAME: Final = 6
_OF_MANY: Final = 8
_SHORTEST_S: Final = 0.001
"""So that a geometric mean exists."""
Scope: TypeAlias = "tuple[LeaseKind, str, str]"


class RunTimes:
    """A bounded memory of the last run times, in seconds, of drivers by function title and of tasks by name.

    The prediction is made of the user's last few of that name (Tsafrir, Etsion, Feitelson, "Backfilling Using
    System-Generated Predictions Rather Than User Runtime Estimates", TPDS 2007), else of the user's last few of any
    name, else of everybody's last few, else it is `unknown_s`. It is their geometric mean: run times are heavy-tailed,
    and one long one must not make the next few look long. It is lost with the leader: a soft hint, never a limit.
    """

    def __init__(self, unknown_s: float) -> None:
        self._unknown_s = unknown_s
        self._of_name: Memory[Scope, tuple[float, ...]] = Memory(_NAMES)
        self._of_user: Memory[tuple[LeaseKind, str], tuple[float, ...]] = Memory(_USERS)
        self._of_all: dict[LeaseKind, tuple[float, ...]] = {}

    def ran(self, kind: LeaseKind, user: str, name: str, run_s: float) -> None:
        """Remember that something has run for `run_s` seconds."""
        run_s = max(run_s, _SHORTEST_S)
        of_name = (*(self._of_name.get((kind, user, name)) or ()), run_s)
        self._of_name.remember((kind, user, name), of_name[-_OF_A_NAME:])
        of_user = (*(self._of_user.get((kind, user)) or ()), run_s)
        self._of_user.remember((kind, user), of_user[-_OF_MANY:])
        self._of_all[kind] = (*self._of_all.get(kind, ()), run_s)[-_OF_MANY:]

    def told(self, kind: LeaseKind, user: str, name: str, run_s: float) -> None:
        """Remember a name's mean run time that others have computed; it replaces what was known of the name."""
        run_s = max(run_s, _SHORTEST_S)
        if self._of_name.get((kind, user, name)) != (run_s,):
            self.ran(kind, user, name, run_s)
            self._of_name.remember((kind, user, name), (run_s,))

    def predict(self, kind: LeaseKind, user: str, name: str) -> float:
        """Return how long the next one will run, in seconds."""
        known = self._known(kind, user, name) or self._of_all.get(kind)
        return statistics.geometric_mean(known) if known else self._unknown_s

    def promise(self, kind: LeaseKind, user: str, name: str) -> float:
        """Return the same where something of this user is known, else infinity: too little to let others wait for."""
        return self.predict(kind, user, name) if self._known(kind, user, name) else math.inf

    def _known(self, kind: LeaseKind, user: str, name: str) -> tuple[float, ...] | None:
        return self._of_name.get((kind, user, name)) or self._of_user.get((kind, user))


class TaskHabits:
    """A bounded memory of which functions start tasks. It is lost with the leader: then all are taken to do so."""

    def __init__(self) -> None:
        self._starts: Memory[tuple[str, str], bool] = Memory(_NAMES)

    def ended(self, user: str, function: str, *, had_tasks: bool) -> None:
        """Remember whether a driver that ended has started tasks; who did once may do so again."""
        self._starts.remember((user, function), had_tasks or bool(self._starts.get((user, function))))

    def may_start(self, user: str, function: str) -> bool:
        """Whether a function starts tasks, as far as is known."""
        return self._starts.get((user, function)) is not False
