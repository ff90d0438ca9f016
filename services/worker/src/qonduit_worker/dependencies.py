"""Whether the environment that programs run in has what a function says it needs."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING

from packaging.requirements import InvalidRequirement, Requirement

if TYPE_CHECKING:
    from collections.abc import Iterable


def unmet(dependencies: Iterable[str]) -> list[str]:
    """Return one sentence for each requirement that the default environment does not meet."""
    return [problem for text in dependencies if (problem := _problem(text))]


def _problem(text: str) -> str:
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        return f"{text!r} is no requirement that can be understood ({error})."
    if requirement.marker is not None and not requirement.marker.evaluate():
        return ""
    try:
        found = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return f"{requirement.name} is not installed."
    if not requirement.specifier.contains(found, prereleases=True):
        return f"{requirement.name} {found} is installed, and {str(requirement.specifier)!r} is asked for."
    return ""


def explain(problems: Iterable[str]) -> str:
    """Return the text of the error that a user sees."""
    listed = "\n".join(f"- {problem}" for problem in problems)
    return (
        "The worker's environment does not have what the function depends on:\n"
        f"{listed}\n"
        "Ask for versions that it has, or have the operator install them on the workers."
    )
