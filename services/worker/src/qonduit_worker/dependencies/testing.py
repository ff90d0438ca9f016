"""Wheels made on the spot, and an index that hangs: for tests, which use no network."""

from __future__ import annotations

import asyncio
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


class SlowIndex:
    """An index of packages that has none, and never answers a question for `slow`."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        """Somebody asked for `slow`."""
        self.left = asyncio.Event()
        """Somebody who asked for it is gone."""
        self.url = ""
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen on loopback, at `url`."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/simple"

    async def stop(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        if b"/simple/slow/" in request:
            self.asked.set()
            await reader.read()
            self.left.set()
        else:
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
        writer.close()
