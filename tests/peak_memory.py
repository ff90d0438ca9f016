"""The most memory that a process of ours has had, as the kernel keeps count of it."""

from __future__ import annotations

from pathlib import Path


class PeakMemory:
    """How far a process grew since this was made, at its peak."""

    def __init__(self, pid: int) -> None:
        self._status = Path(f"/proc/{pid}/status")
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # From here on the peak counts anew.
        self._before_bytes = self._peak_bytes()

    def _peak_bytes(self) -> int:
        fields = dict(line.split(":", 1) for line in self._status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024

    @property
    def growth_bytes(self) -> int:
        """Bytes by which its peak is above what it had then."""
        return self._peak_bytes() - self._before_bytes
