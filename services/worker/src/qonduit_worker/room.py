"""A sandbox's folders on this machine, and what the agent puts there before a program starts."""

from __future__ import annotations

import asyncio
import shutil
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qonduit.program.blobs import SOCKET_NAME

from qonduit_worker.archive import unpack
from qonduit_worker.data_folder import copy_file
from qonduit_worker.zygote.layout import FUNCTION_DATA_NAME

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Room:
    """One sandbox's folders: `job` (the artifact), `data` (the user's files), `run` (the agent's socket).

    `function_data`, in `run`, is there for programs of a provider's function alone. `parts` is for the agent alone:
    the program never sees it.
    """

    sandbox_id: str
    directory: Path

    @classmethod
    def make(cls, parent: Path, kind: str) -> Room:
        """Make a new one."""
        sandbox_id = f"{kind.lower()}-{uuid.uuid4().hex[:12]}"
        room = cls(sandbox_id, parent / sandbox_id)
        room.directory.mkdir(parents=True)
        # The sandbox's own user passes through here, and may not look around.
        room.directory.chmod(0o711)
        for folder in (room.job, room.data, room.run, room.parts):
            folder.mkdir(mode=0o700)
        return room

    @property
    def job(self) -> Path:
        """The program's own folder."""
        return self.directory / "job"

    @property
    def data(self) -> Path:
        """The user's files."""
        return self.directory / "data"

    @property
    def run(self) -> Path:
        """The socket, the arguments, a provider's files: what the program may read and not change."""
        return self.directory / "run"

    @property
    def function_data(self) -> Path:
        """The files of the function's provider."""
        return self.run / FUNCTION_DATA_NAME

    @property
    def parts(self) -> Path:
        """Unfinished uploads."""
        return self.directory / "parts"

    @property
    def socket(self) -> Path:
        """The agent's socket."""
        return self.run / "agent.sock"

    @property
    def blob_socket(self) -> Path:
        """The agent's socket for large bytes, beside the other."""
        return self.run / SOCKET_NAME

    async def unpack(self, artifact: Path, *, most_bytes: int) -> None:
        """Unpack the artifact; raises BadArchiveError."""
        await asyncio.to_thread(unpack, artifact, self.job, most_bytes=most_bytes)

    async def put_arguments(self, arguments: Path) -> None:
        """Put a copy of the arguments where the program looks for them."""
        await asyncio.to_thread(copy_file, arguments, self.run / "arguments.json")

    async def remove(self) -> None:
        """Remove everything; the sandbox is over."""
        await asyncio.to_thread(shutil.rmtree, self.directory, ignore_errors=True)
