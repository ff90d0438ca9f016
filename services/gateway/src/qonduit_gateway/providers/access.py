"""Who may do what with a provider's functions: roles, what they allow, and to whom they are granted."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class Role(StrEnum):
    """What is granted; the names are those of the API."""

    READ = "READ"
    RUN = "RUN"
    TRIAL = "TRIAL"
    LOGS = "LOGS"
    FILES = "FILES"
    ADMIN = "ADMIN"


class Action(StrEnum):
    """What somebody wants to do, in words that end "You may not ..."."""

    SEE = "see it"
    RUN = "run it"
    READ_LOGS = "see its jobs and what they told its provider"
    USE_FILES = "use its provider's files"
    MANAGE = "upload or change it, see what it consists of, or grant roles"


class GranteeKind(StrEnum):
    """To whom."""

    USER = "user"
    GROUP = "group"
    EVERYONE = "everyone"


ALLOWED: dict[Role, frozenset[Action]] = {
    Role.READ: frozenset({Action.SEE}),
    Role.RUN: frozenset({Action.SEE, Action.RUN}),
    Role.TRIAL: frozenset({Action.SEE, Action.RUN}),
    Role.LOGS: frozenset({Action.SEE, Action.READ_LOGS}),
    Role.FILES: frozenset({Action.SEE, Action.USE_FILES}),
    Role.ADMIN: frozenset(Action),
}
FOR_EVERYONE = frozenset({Role.READ, Role.RUN, Role.TRIAL})
"""What may be granted to everyone: with the other roles one sees what is others', or changes something."""


@dataclass(frozen=True, slots=True)
class Grantee:
    """A user, a group, or everyone."""

    kind: GranteeKind
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind.value} {self.name}".rstrip()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a grant holds: one function of a provider, or all of them."""

    provider: str
    title: str = ""
    """Empty for all of the provider's functions."""

    def covers(self, other: Place) -> bool:
        """Whether what holds here holds there."""
        return self.provider == other.provider and self.title in {"", other.title}

    def __str__(self) -> str:
        return f"{self.provider}/{self.title}" if self.title else self.provider


@dataclass(frozen=True, slots=True)
class Grant:
    """Who may do what, and where."""

    place: Place
    grantee: Grantee
    role: Role


@dataclass(frozen=True, slots=True)
class Access:
    """What one caller may do at one place."""

    roles: frozenset[Role]

    def allows(self, action: Action) -> bool:
        """Whether they may do it."""
        return any(action in ALLOWED[role] for role in self.roles)

    @property
    def trial(self) -> bool:
        """Whether they run it as a trial alone."""
        return Role.TRIAL in self.roles and self.roles.isdisjoint({Role.RUN, Role.ADMIN})


OWNER = Access(frozenset({Role.ADMIN}))
"""What the owner of a function may do with it."""


def access_at(place: Place, held: Iterable[Grant]) -> Access:
    """Return what somebody may do at a place, given the grants to them, to their groups and to everyone."""
    return Access(frozenset(grant.role for grant in held if grant.place.covers(place)))
