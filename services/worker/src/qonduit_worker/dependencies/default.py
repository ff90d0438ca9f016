"""The environment of the worker itself, over which those of functions are laid."""

from __future__ import annotations

import hashlib
import sys
import sysconfig
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from collections.abc import Mapping

_OWN: Final = "qonduit"


@dataclass(frozen=True, slots=True)
class DefaultEnvironment:
    """What programs find installed in any case.

    Attributes:
        installed: Versions by normal name.
        root: The requirement that every layer has to go together with: what programs speak to their worker with,
            at the worker's own version, and by that all that it needs.
        digest: Changes with any version, and with Python's own.
    """

    installed: Mapping[str, str]
    root: str
    digest: str

    @classmethod
    def look(cls) -> Self:
        """Look at this interpreter; reads a hundred small files."""
        found: dict[str, str] = {}
        for distribution in metadata.distributions():
            # The first of a name is the one that is imported.
            found.setdefault(canonicalize_name(distribution.name), distribution.version)
        frozen = "\n".join((sys.version, sysconfig.get_platform(), *(f"{n}=={found[n]}" for n in sorted(found))))
        return cls(found, f"{_OWN}=={found[_OWN]}", hashlib.sha256(frozen.encode()).hexdigest())


def write_view(folder: Path) -> Path:
    """Write what a resolver must know of this environment as one of its own; returns the interpreter in it.

    A resolver prefers what is installed, and then needs no index for it; but it locks the environment that it looks
    at, so that a build that hangs would hold up all others. Only metadata is copied: nothing is installed from there.
    """
    packages = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    packages.mkdir(parents=True)
    for distribution in metadata.distributions():
        text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO")
        name = canonicalize_name(distribution.name).replace("-", "_")
        known = packages / f"{name}-{distribution.version}.dist-info"
        if text and not any(packages.glob(f"{name}-*.dist-info")):
            known.mkdir()
            (known / "METADATA").write_text(text)
    python = folder / "bin" / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    home = Path(sys._base_executable).parent  # type: ignore[attr-defined]  # noqa: SLF001 - what `venv` reads too.
    (folder / "pyvenv.cfg").write_text(f"home = {home}\nversion = {'.'.join(map(str, sys.version_info[:3]))}\n")
    return python
