"""Arithmetic on shapes (cpu, memory, gpus), and shapes in words.

Results may be negative: a worker whose driver took its lent cpu back has less than nothing free.
"""

from __future__ import annotations

import math
from typing import Final

from qonduit_service_kit.messages import Shape

NOTHING: Final = Shape(0, 0, 0)
_MIB: Final = 1024**2
_GIB: Final = 1024**3


def add(left: Shape, right: Shape) -> Shape:
    """Return the sum in each dimension."""
    return Shape(left.cpu_millis + right.cpu_millis, left.mem_bytes + right.mem_bytes, left.gpus + right.gpus)


def subtract(left: Shape, right: Shape) -> Shape:
    """Return `left` less `right` in each dimension; may be negative."""
    return Shape(left.cpu_millis - right.cpu_millis, left.mem_bytes - right.mem_bytes, left.gpus - right.gpus)


def fits(need: Shape, room: Shape) -> bool:
    """Whether `room` has at least `need` in each dimension."""
    return need.cpu_millis <= room.cpu_millis and need.mem_bytes <= room.mem_bytes and need.gpus <= room.gpus


def times_in(need: Shape, room: Shape) -> int:
    """Return how many times `need` goes into `room`."""
    pairs = (
        (room.cpu_millis, need.cpu_millis),
        (room.mem_bytes, need.mem_bytes),
        (room.gpus, need.gpus),
    )
    return min((max(0, offered) // asked for offered, asked in pairs if asked > 0), default=0)


def cpu_text(cpu_millis: int) -> str:
    """Thousandths of a core as a person writes them: '0.5', '16'."""
    return f"{cpu_millis / 1000:g}"


def mem_text(mem_bytes: int, *, up: bool) -> str:
    """Bytes with one decimal, rounded up for a need and down for an offer, so that the two never look equal."""
    unit, name = (_GIB, "GiB") if abs(mem_bytes) >= _GIB else (_MIB, "MiB")
    tenths = mem_bytes * 10 / unit
    return f"{(math.ceil(tenths) if up else math.floor(tenths)) / 10:.1f} {name}"


def in_words(shape: Shape, *, up: bool, gpus: bool) -> str:
    """Return e.g. '16 cpu and 2.0 GiB'; `gpus` tells whether gpus matter here."""
    cpu, mem = f"{cpu_text(shape.cpu_millis)} cpu", mem_text(shape.mem_bytes, up=up)
    if not gpus:
        return f"{cpu} and {mem}"
    return f"{cpu}, {mem} and {shape.gpus} gpu{'' if shape.gpus == 1 else 's'}"


def need_and_offer(need: Shape, offer: Shape) -> tuple[str, str]:
    """Return a need and an offer in words that can be read side by side."""
    gpus = need.gpus > 0
    return in_words(need, up=True, gpus=gpus), in_words(offer, up=False, gpus=gpus)
