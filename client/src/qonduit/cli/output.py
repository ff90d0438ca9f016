"""What commands print: tables for people, JSON for programs, nothing cut short unless a terminal is that narrow."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, is_dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from qonduit.job_history import format_table

if TYPE_CHECKING:
    from collections.abc import Sequence

_GOOD = ("DONE", "ready", "ok")
_BAD = ("ERROR", "dead", "deaf", "wrong")


def say(text: str) -> None:
    """Print a line of the answer."""
    sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """Print a line about the answer, out of the way of pipes."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def show_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> None:
    """Print a table; columns in `right` are flush right. Without rows there are "none"."""
    if not rows:
        say("none")
        return
    if not sys.stdout.isatty():
        say(format_table(head, rows, right=frozenset(right)))
        return
    from rich.console import Console  # noqa: PLC0415 - Slow to load, and of no use to pipes.
    from rich.table import Table  # noqa: PLC0415 - As above.
    from rich.text import Text  # noqa: PLC0415 - As above.

    table = Table(box=None, header_style="bold", pad_edge=False)
    for index, name in enumerate(head):
        table.add_column(name, justify="right" if index in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=_style(cell)) for cell in row))
    Console().print(table)


def show_json(value: Any) -> None:
    """Print a value as JSON: dataclasses as objects, times in ISO 8601."""
    say(json.dumps(value, indent=2, default=plain))


def mem_text(size_bytes: int) -> str:
    """Return bytes for people."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:  # noqa: PLR2004 - What the units are made of.
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def time_text(moment: datetime | None) -> str:
    """Return a local time with its zone, for people."""
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S %Z}" if moment else ""


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it: dataclasses as objects, times in ISO 8601."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, datetime):
        return value.isoformat()
    return repr(value)


def _style(cell: str) -> str:
    if cell in _GOOD:
        return "green"
    if cell in _BAD:
        return "red"
    return "cyan" if cell.startswith("RUNNING") else ""
