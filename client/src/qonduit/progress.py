"""One bar for a transfer that takes a while: in a terminal or a notebook, and nowhere else unless asked for."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SHOWN_FROM_BYTES: Final = 8 * 1024**2
"""What is smaller is over before a bar is read."""


def told_to_nobody(done_bytes: int) -> None:
    """Take how many bytes are done, and show it to nobody."""


@contextmanager
def transfer(text: str, size_bytes: int, *, shown: bool | None = None) -> Iterator[Callable[[int], None]]:
    """Give a function that takes how many of a transfer's bytes are done, while its bar is shown on stderr.

    Args:
        text: What is transferred.
        size_bytes: All of it.
        shown: Whether there is a bar; None for one where somebody may look at it, and it is large enough.
    """
    if shown is None:
        shown = size_bytes >= _SHOWN_FROM_BYTES and (sys.stderr.isatty() or "ipykernel" in sys.modules)
    if not shown:
        yield told_to_nobody
        return
    from rich.console import Console  # noqa: PLC0415 - Slow to load, and most transfers need none of it.
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn  # noqa: PLC0415 - As above.  # noqa: PLC0415 - As above.

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(text, total=size_bytes)
        yield lambda done_bytes: progress.update(task, completed=done_bytes)
