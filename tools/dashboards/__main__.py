"""Write what is made from code, or check that what is checked in is that.

python -m dashboards write      the dashboards' JSON and the page of metrics
python -m dashboards check      change nothing; fail if one of them is stale
python -m dashboards draw       pictures of the dashboards, of a stack started for that (a minute or two)
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from dashboards import stored

if TYPE_CHECKING:
    from pathlib import Path


def fresh_files() -> dict[Path, str]:
    """Return every file that is made from code, as it should be."""
    return stored.fresh_dashboards()


def stale_files() -> list[Path]:
    """Return the checked-in files that differ from what the code says now, and those that no code makes."""
    fresh = fresh_files()
    differing = [path for path, text in fresh.items() if not path.exists() or path.read_text() != text]
    return sorted({*differing, *(path for path in stored.DASHBOARDS.glob("*.json") if path not in fresh)})


def write() -> int:
    """Write all."""
    for path in stale_files():
        path.unlink(missing_ok=True)
    for path, text in fresh_files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return 0


def check() -> int:
    """Check all."""
    stale = stale_files()
    for path in stale:
        sys.stderr.write(f"stale: {path.relative_to(stored.ROOT)}; run 'make dashboards'\n")
    return 1 if stale else 0


if __name__ == "__main__":
    chores = {"write": write, "check": check}
    wanted = sys.argv[1:]
    if len(wanted) != 1 or wanted[0] not in chores:
        sys.exit(__doc__)
    sys.exit(chores[wanted[0]]())
