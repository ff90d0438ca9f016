"""Which stored files a program finds: its user's in /data, and in /function_data those of its function's provider."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qonduit_service_kit import spaces

from qonduit_worker.data_folder import DataFolder

if TYPE_CHECKING:
    from qonduit_service_kit.messages import ExecutorGranted, JobSpec

    from qonduit_worker.blobs import BlobCache
    from qonduit_worker.room import Room
    from qonduit_worker.storage import Storage


class ProgramFiles:
    """The files of one sandbox.

    A provider's files are only ever brought: nothing looks at what has become of them, so nothing can go back.

    Args:
        room: The sandbox's.
        job: What was granted: it names the spaces.
        storage: As the job may use it.
        cache: This machine's.
    """

    def __init__(self, room: Room, job: JobSpec | ExecutorGranted, storage: Storage, cache: BlobCache) -> None:
        space = job.space or spaces.of_user(job.user)  # An older gateway names none.
        self.data = DataFolder(room.data, space, storage, cache, names=job.files)
        self._provided: DataFolder | None = None
        if job.provider_space:
            room.function_data.mkdir(mode=0o700)
            self._provided = DataFolder(room.function_data, job.provider_space, storage, cache)

    async def fill(self) -> None:
        """Bring all files; raises StorageError."""
        await self.data.fill()
        if self._provided is not None:
            await self._provided.fill()
