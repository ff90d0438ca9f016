"""Write what is made from code, or check that what is checked in is that.

python -m dashboards write      the dashboards' JSON and the page of metrics
python -m dashboards check      change nothing; fail if one of them is stale
python -m dashboards draw       pictures of the dashboards, of a stack started for that (a minute or two)
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from dashboards import metrics_page, stored
from dashboards.boards import BOARDS

PICTURES: Final = stored.ROOT / "docs" / "dashboards"


def fresh_files() -> dict[Path, str]:
    """Return every file that is made from code, as it should be."""
    return stored.fresh_dashboards() | {metrics_page.PAGE: metrics_page.page()}


def stale_files() -> list[Path]:
    """Return the checked-in files that differ from what the code says now, and those that no code makes."""
    fresh = fresh_files()
    differing = [path for path, text in fresh.items() if not path.exists() or path.read_text() != text]
    return sorted({*differing, *(path for path in stored.DASHBOARDS.glob("*.json") if path not in fresh)})


def write() -> int:
    """Write all: the dashboards first, since the page of metrics tells what is on them."""
    for path in stored.DASHBOARDS.glob("*.json"):
        path.unlink()
    for path, text in stored.fresh_dashboards().items():
        path.write_text(text)
    metrics_page.PAGE.write_text(metrics_page.page())
    return 0


def check() -> int:
    """Check all."""
    stale = stale_files()
    for path in stale:
        sys.stderr.write(f"stale: {path.relative_to(stored.ROOT)}; run 'make dashboards'\n")
    return 1 if stale else 0


def draw_all() -> int:
    """Start a stack, have it work, and draw every dashboard as it was meanwhile."""
    # Only this needs matplotlib, and the stack that the tests observe.
    from observed_stack import observed_stack  # noqa: PLC0415
    from observed_work import work  # noqa: PLC0415

    from dashboards.checking import Span  # noqa: PLC0415
    from dashboards.pictures import draw  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="qonduit-dashboards-") as name:
        folder = Path(name)
        with observed_stack(folder) as observed:
            work(observed, folder)
            span = Span(observed.began_at, time.time())
            for board in BOARDS:
                draw(board, observed.prometheus, span, PICTURES / f"{board.uid.removeprefix('qonduit-')}.png")
    return 0


if __name__ == "__main__":
    chores = {"write": write, "check": check, "draw": draw_all}
    wanted = sys.argv[1:]
    if len(wanted) != 1 or wanted[0] not in chores:
        sys.exit(__doc__)
    sys.exit(chores[wanted[0]]())
