"""What a function's folder keeps for itself: patterns of `.gitignore` and `.qonduitignore`."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from pathspec import GitIgnoreSpec

from qonduit.exceptions import InvalidFunctionError

if TYPE_CHECKING:
    from pathlib import Path

IGNORE_FILES: Final = (".gitignore", ".qonduitignore")
"""The later one has the last word: it can bring back what the other leaves out."""


class Ignoring:
    """The patterns that hold in one folder: its own, and those of the folders above it."""

    def __init__(self, above: Ignoring | None, folder: Path, prefix: str) -> None:
        """Read the folder's files of patterns.

        Args:
            above: What holds in the folder that this one is in; None for the first.
            folder: Where it is.
            prefix: What its files' names begin with in the artifact.

        Raises:
            InvalidFunctionError: Such a file cannot be read.
        """
        self._above = above
        self._prefix = PurePosixPath(prefix)
        lines: list[str] = []
        for name in IGNORE_FILES:
            path = folder / name
            try:
                if path.is_file():
                    lines += path.read_text("utf-8").splitlines()
            except (OSError, UnicodeError) as error:
                raise InvalidFunctionError(f"{path} cannot be read: {error}.") from error
        try:
            self._spec = GitIgnoreSpec.from_lines(lines)
        except ValueError as error:
            raise InvalidFunctionError(f"{folder}: a pattern of its {' or '.join(IGNORE_FILES)}: {error}.") from error

    def leaves_out(self, name: str, *, is_folder: bool) -> bool:
        """Tell whether a file or folder below here stays out; the nearest pattern that knows it decides, as in git."""
        relative = str(PurePosixPath(name).relative_to(self._prefix)) + ("/" if is_folder else "")
        found = self._spec.check_file(relative).include
        if found is not None:
            return found
        return self._above is not None and self._above.leaves_out(name, is_folder=is_folder)
