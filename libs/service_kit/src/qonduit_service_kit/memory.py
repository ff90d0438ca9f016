"""What the C library does with memory that was freed."""

from __future__ import annotations

import contextlib
import ctypes
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_PIECE_BYTES: Final = 8 * 1024**2


def keep_large_pieces() -> None:
    """Has the GNU C library keep freed pieces of some megabytes for the next ones, up to 16 MiB in each of two arenas.

    A stream of chunks of a megabyte frees several of these a chunk. They would go back to the system each time, and all
    pages of the next ones be mapped and cleared anew, which is most of the CPU time of a download. Threads share two
    arenas, or each would keep as much.
    """
    with contextlib.suppress(AttributeError, OSError):  # Other C libraries have no such setting.
        library = ctypes.CDLL(None)
        library.mallopt(_M_ARENA_MAX, 2)
        library.mallopt(_M_MMAP_THRESHOLD, _PIECE_BYTES)
        library.mallopt(_M_TRIM_THRESHOLD, 2 * _PIECE_BYTES)
