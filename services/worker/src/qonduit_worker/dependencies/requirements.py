"""The requirements of a function: which are accepted, and which of them the worker's environment meets. Pure."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Final

from packaging.markers import UndefinedComparison, UndefinedEnvironmentName
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

# uv puts variables of its environment into lines with `$`, and a file of requirements has options of its own.
_PLAIN: Final = re.compile(r"[A-Za-z0-9._\-\[\],<>=!~*+]+")
_DIRECT: Final = re.compile(r"[A-Za-z0-9._\-\[\],]+ @ [A-Za-z0-9._~:/?#\[\]@!&'()*+,;=%-]+")


class DependencyError(Exception):
    """A function's environment cannot be had; the text is for its author."""


def parse(texts: Iterable[str], *, direct: bool) -> list[Requirement]:
    """Read requirements such as `numpy>=2`; those whose marker does not hold here are left out.

    Args:
        texts: As the function's author wrote them.
        direct: Whether addresses and paths (`name @ url`) are accepted.

    Raises:
        DependencyError: Some are not accepted; the text has a line for each.
    """
    found: dict[str, Requirement] = {}
    problems: list[str] = []
    for text in texts:
        try:
            requirement = Requirement(text)
            applies = requirement.marker is None or requirement.marker.evaluate()
        except (InvalidRequirement, UndefinedComparison, UndefinedEnvironmentName) as error:
            reason = str(error).splitlines()[0]
            problems.append(f"{text!r} is not a requirement such as 'numpy>=2': {reason}")
            continue
        problem = _problem(requirement, direct=direct)
        if problem:
            problems.append(problem)
        elif applies:
            found[line_of(requirement)] = requirement
    if problems:
        raise DependencyError("The function's dependencies are not accepted:\n" + "\n".join(f"- {p}" for p in problems))
    return [found[line] for line in sorted(found)]


def _problem(requirement: Requirement, *, direct: bool) -> str:
    line = line_of(requirement)
    if requirement.url and not direct:
        return (
            f"{line!r} names an address: ask for a version of {requirement.name}, "
            "or have the operator allow addresses (QONDUIT_WORKER_DEPENDENCY_ADDRESSES=true)."
        )
    if not (_DIRECT if requirement.url else _PLAIN).fullmatch(line):
        return f"{line!r} holds characters that are not accepted here."
    return ""


def line_of(requirement: Requirement) -> str:
    """Write a requirement in its one normal form, without its marker."""
    extras = ",".join(sorted(map(canonicalize_name, requirement.extras)))
    name = canonicalize_name(requirement.name) + (f"[{extras}]" if extras else "")
    if requirement.url:
        return f"{name} @ {requirement.url}"
    return name + ",".join(sorted(str(each) for each in requirement.specifier))


def unmet(requirements: Iterable[Requirement], installed: Mapping[str, str]) -> list[Requirement]:
    """Return those that packages of these versions (by normal name) do not certainly meet."""
    return [requirement for requirement in requirements if not _met(requirement, installed)]


def _met(requirement: Requirement, installed: Mapping[str, str]) -> bool:
    if requirement.url or requirement.extras:
        return False  # What an extra needs, and where a package came from, only the resolver can tell.
    version = installed.get(canonicalize_name(requirement.name))
    return version is not None and requirement.specifier.contains(version, prereleases=True)


def digest_of(requirements: Sequence[Requirement], default_digest: str) -> str:
    """Name the environment that these requirements make over a default one: 64 hexadecimal digits."""
    lines = (*sorted(map(line_of, requirements)), default_digest)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
