"""The line that a reader gets in place of bytes that were dropped."""

from __future__ import annotations

NOTE_LIMIT_BYTES = 128
_MIB = 1024 * 1024


def dropped_note(dropped_bytes: int, cap_bytes: int) -> bytes:
    """The line, at most NOTE_LIMIT_BYTES long."""
    limit = f"{cap_bytes // _MIB} MiB" if cap_bytes % _MIB == 0 else f"{cap_bytes:,} bytes"
    return f"[qonduit: {dropped_bytes:,} earlier bytes of this log were dropped; the limit is {limit}]\n".encode()
