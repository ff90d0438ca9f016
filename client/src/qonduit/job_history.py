"""A job's history and its bill, as values that print as tables."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

if TYPE_CHECKING:
    from datetime import datetime


def format_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: frozenset[int] = frozenset()) -> str:
    """Return a plain table; columns in `right` are flush right."""
    widths = [max(len(row[index]) for row in (head, *rows)) for index in range(len(head))]

    def line(row: Sequence[str]) -> str:
        cells = (
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join(cells).rstrip()

    return "\n".join(line(row) for row in (head, *rows))


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return an HTML table for notebooks."""

    def line(row: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) + "</tr>"

    return f"<table>{line(head, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"


@dataclass(frozen=True, slots=True)
class ToldError:
    """An error that a program told its users: by `send_error`, or by the exception that ended it."""

    code: str
    message: str
    exception: str
    """Name of the exception's class."""
    args: Any = None
    """More of it: what JSON holds."""


@dataclass(frozen=True, slots=True)
class TimelineEntry:
    """One change of a job."""

    time: datetime
    """When it happened, in UTC."""
    status: str
    """The status from then on."""
    attempt: int
    text: str
    """More, where there is more: the worker, the device, why it was requeued."""
    error: ToldError | None = None
    """What the program told then."""


class Timeline(Sequence[TimelineEntry]):
    """Every change of a job, in order."""

    HEAD = ("time", "after s", "status", "attempt", "")

    def __init__(self, entries: Sequence[TimelineEntry]) -> None:
        self._entries = tuple(entries)

    @property
    def statuses(self) -> list[str]:
        """The statuses in order, each once where it repeats without a break."""
        names = [entry.status for entry in self._entries]
        return [name for index, name in enumerate(names) if index == 0 or names[index - 1] != name]

    @overload
    def __getitem__(self, index: int) -> TimelineEntry: ...
    @overload
    def __getitem__(self, index: slice) -> Timeline: ...
    def __getitem__(self, index: int | slice) -> TimelineEntry | Timeline:
        return Timeline(self._entries[index]) if isinstance(index, slice) else self._entries[index]

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return format_table(self.HEAD, self.rows(), right=frozenset({1, 3}))

    def _repr_html_(self) -> str:
        return html_table(self.HEAD, self.rows())

    def rows(self) -> list[tuple[str, ...]]:
        """Return the entries as texts, with local times."""
        return [
            (
                entry.time.astimezone().strftime("%H:%M:%S.%f")[:-3],
                f"{(entry.time - self._entries[0].time).total_seconds():.3f}",
                entry.status,
                str(entry.attempt or ""),
                entry.text,
            )
            for entry in self._entries
        ]


@dataclass(frozen=True, slots=True)
class StageUsage:
    """What one stage used, over all attempts, the driver and its tasks."""

    status: str
    wall_s: float
    cpu_s: float
    qpu_s: float
    peak_mem_bytes: int


class Usage(Sequence[StageUsage]):
    """What a job used, a row for each stage in the order of first appearance, and `total`."""

    HEAD = ("stage", "wall s", "CPU s", "QPU s", "peak memory")

    def __init__(self, stages: Sequence[StageUsage], total: StageUsage) -> None:
        self.stages = tuple(stages)
        self.total = total

    @overload
    def __getitem__(self, index: int) -> StageUsage: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[StageUsage]: ...
    @overload
    def __getitem__(self, index: str) -> StageUsage: ...
    def __getitem__(self, index: int | slice | str) -> StageUsage | Sequence[StageUsage]:
        """Return a stage by position or by its status; KeyError if the job never was in it."""
        if not isinstance(index, str):
            return self.stages[index]
        for stage in self.stages:
            if stage.status == index:
                return stage
        raise KeyError(index)

    def __len__(self) -> int:
        return len(self.stages)

    def __repr__(self) -> str:
        return format_table(self.HEAD, self.rows(), right=frozenset({1, 2, 3, 4}))

    def _repr_html_(self) -> str:
        return html_table(self.HEAD, self.rows())

    def rows(self) -> list[tuple[str, ...]]:
        """Return stages and total as texts."""
        return [_usage_row(stage.status, stage) for stage in self.stages] + [_usage_row("total", self.total)]


def _usage_row(name: str, usage: StageUsage) -> tuple[str, ...]:
    peak = f"{usage.peak_mem_bytes / 1024**2:,.0f} MiB" if usage.peak_mem_bytes else ""
    return (name, f"{usage.wall_s:.3f}", f"{usage.cpu_s:.3f}", f"{usage.qpu_s:.3f}", peak)
