"""No system: one task after another in this process, with one thread. What the efficiency is counted from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from peers.system import System

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class SerialSystem(System):
    """Calls the function."""

    def call(self, task: Callable[..., Any], *arguments: Any) -> Any:
        """Call the function."""
        return task(*arguments)

    def call_all(self, task: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Call the function for each."""
        return [task(*arguments) for arguments in calls]


make_system = SerialSystem
