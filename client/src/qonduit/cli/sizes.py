"""Amounts and times as people write and read them on a command line."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import typer

from qonduit.cli import output
from qonduit.configuration import LEAST_MEM_BYTES

if TYPE_CHECKING:
    from qonduit.cluster import Room

_SIZE = re.compile(r"(\d+\.?\d*)\s*([kmgt]?)(i?b)?", re.IGNORECASE)
_UNITS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}
_AGES = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def size_of(text: str, option: str) -> int:
    """Return bytes; BadParameter if a text is no size."""
    matched = _SIZE.fullmatch(text.strip())
    if not matched:
        raise typer.BadParameter(f"{text!r} is no size; write 512M, 4G or 4GiB, or bytes", param_hint=option)
    return int(float(matched[1]) * _UNITS[matched[2].lower()])


def mem_of(text: str) -> int:
    """Return memory in bytes, 0 for an empty text; BadParameter if it is no size that can be meant."""
    if not text:
        return 0
    size = size_of(text, "--mem")
    if size < LEAST_MEM_BYTES:
        least = output.mem_text(LEAST_MEM_BYTES)
        text = f"{text!r} is {size} bytes, and no program starts in less than {least}; write 512M, 4G or 4GiB"
        raise typer.BadParameter(text, param_hint="--mem")
    return size


def room_text(room: Room) -> str:
    """Return cores, memory and GPUs for people."""
    gpus = f", {room.gpus} GPU" if room.gpus else ""
    return f"{room.cpu:g} cpu, {output.mem_text(room.mem_bytes)}{gpus}"


def age_text(since: datetime | None) -> str:
    """Return how long ago something was, in the largest unit that it fills: "3 min"."""
    if since is None:
        return ""
    seconds = max(0, int((datetime.now(UTC) - since).total_seconds()))
    size, unit = next((each for each in _AGES if seconds >= each[0]), _AGES[-1])
    return f"{seconds // size} {unit}"
