"""`requirements.py ROOT MEMBER[EXTRA]`: what a member of the workspace needs, read from the pyproject.toml files.

Prints one requirement a line; with `--own`, the folders of the workspace members instead, itself among them.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import Any


def members(root: Path) -> dict[str, Path]:
    """Return each distribution of the workspace and its folder."""
    found: dict[str, Path] = {}
    for file in root.glob("*/**/pyproject.toml"):
        found[_project(file.parent)["name"]] = file.parent
    return found


def _project(folder: Path) -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    return project


def needed(wanted: str, known: dict[str, Path]) -> tuple[set[str], set[Path]]:
    """Return the requirements from the package index, and the workspace folders, that `wanted` leads to."""
    strangers: set[str] = set()
    own: set[Path] = set()
    waiting = [wanted]
    while waiting:
        requirement = waiting.pop()
        name, extras = re.fullmatch(r"([A-Za-z0-9._-]+)(?:\[(.*?)\])?.*", requirement).groups()  # type: ignore[union-attr]
        if name not in known:
            strangers.add(requirement)
            continue
        project = _project(known[name])
        optional = project.get("optional-dependencies", {})
        chosen = [line for extra in (extras or "").split(",") if extra for line in optional[extra]]
        if known[name] not in own or chosen:
            own.add(known[name])
            waiting += [*project["dependencies"], *chosen]
    return strangers, own


def main() -> None:
    """Print what the command line asks for."""
    *flags, root, wanted = sys.argv[1:]
    strangers, own = needed(wanted, members(Path(root)))
    sys.stdout.writelines(f"{line}\n" for line in sorted(map(str, own if flags == ["--own"] else strangers)))


if __name__ == "__main__":
    main()
