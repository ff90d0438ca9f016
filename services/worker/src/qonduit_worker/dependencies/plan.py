"""What the resolver found: the packages that a layer holds. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_ADDED: Final = re.compile(r" \+ (?P<name>\S+?)==(?P<version>\S+)(?: \(from (?P<url>.+)\))?")
_REMOVED: Final = re.compile(r" - (?P<name>\S+?)==(?P<version>\S+)(?: \(from .+\))?")
_PROGRESS: Final = re.compile(
    r"(Prepared|Installed|Downloading|Downloaded|Building|Built|Bytecode compiled|warning:) ?.*"
)
_FAILURE: Final = re.compile(r"^(error:| *\u00d7 )", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Plan:
    """The packages of a layer.

    Attributes:
        lines: One exact requirement for each package to install, sorted.
        replaced: "name version" of each package of the default environment that a layer hides behind its own.
    """

    lines: tuple[str, ...]
    replaced: tuple[str, ...]


def read_plan(output: str) -> Plan:
    """Read what `uv pip install --dry-run` printed."""
    added = [match for line in output.splitlines() if (match := _ADDED.fullmatch(line))]
    removed = [match for line in output.splitlines() if (match := _REMOVED.fullmatch(line))]
    lines = (
        f"{each['name']} @ {each['url']}" if each["url"] else f"{each['name']}=={each['version']}" for each in added
    )
    return Plan(tuple(sorted(lines)), tuple(sorted(f"{each['name']} {each['version']}" for each in removed)))


def progress_of(line: str) -> str:
    """Return what a line of uv's output tells somebody who waits; '' for nothing."""
    return line.strip() if _PROGRESS.fullmatch(line.strip()) else ""


def failure_of(output: str) -> str:
    """Return the resolver's own message: uv's output from the first line that tells of an error."""
    match = _FAILURE.search(output)
    return (output[match.start() :] if match else output).strip()
