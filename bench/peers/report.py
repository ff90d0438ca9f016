"""Tables of what was measured: medians, spread, and how each system stands beside ours."""

from __future__ import annotations

import os
import platform
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from peers.system import EXECUTORS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Rounds = Mapping[str, Sequence[Mapping[str, float]]]
    """For each system the numbers of each round, by name."""

OURS: Final = "ours"
_SERIAL: Final = "serial"


@dataclass(frozen=True, slots=True)
class Column:
    """One number as a column of a table."""

    key: str
    title: str
    digits: int
    more_is_better: bool = False
    serial_key: str = ""
    """The serial time from which an efficiency is counted; "" for none."""


SMALL: Final = (
    Column("no_ops_per_s", "no-op, tasks/s", 0, more_is_better=True),
    Column("mapped_no_ops_per_s", "no-op by `map`, tasks/s", 0, more_is_better=True),
    Column("round_trip_p50_ms", "round trip p50, ms", 2),
    Column("round_trip_p95_ms", "p95, ms", 2),
    Column("arrays_per_s", "1 MB each, tasks/s", 0, more_is_better=True),
    Column("shared_per_s", "50 MB shared, tasks/s", 1, more_is_better=True),
    Column("first_s", "first result, s", 2),
    Column("memory_mb", "idle PSS, MB", 0),
)
CIRCUITS: Final = (
    Column("level_1_warm_s", "level 1 warm, s", 1, serial_key="level_1_warm_s"),
    Column("level_1_cold_s", "level 1 cold, s", 1, serial_key="level_1_warm_s"),
    Column("memory_after_mb", "idle PSS after it, MB", 0),
    Column("level_3_warm_s", "level 3 warm, s", 1, serial_key="level_3_warm_s"),
    Column("level_3_cold_s", "level 3 cold, s", 1, serial_key="level_3_warm_s"),
    Column("own_pass_manager_warm_s", "own pass manager warm, s", 1, serial_key="level_1_warm_s"),
    Column("own_pass_manager_cold_s", "own pass manager cold, s", 1, serial_key="level_1_warm_s"),
)


def table(columns: Sequence[Column], rounds: Rounds) -> list[str]:
    """Return the lines of a Markdown table: a row a system, `median (min-max) ratio`; [] if nothing was measured."""
    used = [column for column in columns if any(_values(rounds, system, column) for system in rounds)]
    rows = [system for system in rounds if any(_values(rounds, system, column) for column in used)]
    if not used:
        return []
    lines = ["| | " + " | ".join(column.title for column in used) + " |", "|---" * (len(used) + 1) + "|"]
    lines += [f"| {system} | " + " | ".join(_cell(rounds, system, column) for column in used) + " |" for system in rows]
    return lines


def _values(rounds: Rounds, system: str, column: Column) -> list[float]:
    return [numbers[column.key] for numbers in rounds.get(system, ()) if column.key in numbers]


def _cell(rounds: Rounds, system: str, column: Column) -> str:
    values = _values(rounds, system, column)
    if not values:
        return ""
    middle = statistics.median(values)
    text = f"{middle:,.{column.digits}f}"
    if len(values) > 1:
        text += f" ({min(values):,.{column.digits}f}-{max(values):,.{column.digits}f})"
    if column.serial_key and system != _SERIAL and (share := _efficiency(rounds, system, column)) is not None:
        text += f" {share:.0%}"
    ours = _values(rounds, OURS, column)
    if ours and system not in (OURS, _SERIAL):
        ratio = middle / statistics.median(ours) if column.more_is_better else statistics.median(ours) / middle
        text += f" {ratio:.2f}x"
    return text


def _efficiency(rounds: Rounds, system: str, column: Column) -> float | None:
    """Return the median over rounds of (serial time of the same round / executors) / time."""
    shares = [
        serial[column.serial_key] / EXECUTORS / numbers[column.key]
        for serial, numbers in zip(rounds.get(_SERIAL, ()), rounds[system], strict=False)
        if column.serial_key in serial and column.key in numbers
    ]
    return statistics.median(shares) if shares else None


def machine() -> str:
    """Describe the machine, in words that stay true."""
    try:
        system = platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        system = platform.platform()
    return f"{len(os.sched_getaffinity(0))} cores, {system}, Python {platform.python_version()}"


def replace_section(text: str, title: str, body: str) -> str:
    """Return a Markdown text with the section `## title` replaced, or added at the end."""
    heading = f"## {title}\n"
    before, found, rest = text.partition(heading)
    if not found:
        return f"{text.rstrip()}\n\n{heading}\n{body.strip()}\n"
    _, following, after = rest.partition("\n## ")
    return f"{before}{heading}\n{body.strip()}\n" + (f"\n## {after}" if following else "")
