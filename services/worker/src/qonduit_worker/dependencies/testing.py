"""Wheels made on the spot, for tests: no index is asked for them."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path


def write_wheel(
    folder: Path, name: str, version: str, *, requires: Iterable[str] = (), files: Mapping[str, str] | None = None
) -> Path:
    """Write a wheel of pure Python; without files it holds one module with the version in it. Returns its path."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    metadata = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {each}" for each in requires)]
    known = {
        "METADATA": "\n".join(["Metadata-Version: 2.1", *metadata]) + "\n",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "",
    }
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in (files or {f"{name}.py": f"version = {version!r}\n"}).items():
            wheel.writestr(file, text)
        for file, text in known.items():
            wheel.writestr(f"{name}-{version}.dist-info/{file}", text)
    return path
