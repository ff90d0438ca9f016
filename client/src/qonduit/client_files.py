"""What a client does with files: the user's own, those for a provider's function, and the provider's."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from qonduit.file_space import describe_local, save
from qonduit.progress import transfer

if TYPE_CHECKING:
    from collections.abc import Callable
    from os import PathLike

    from qonduit.file_space import FileSpace, SpaceUsage, StoredFile
    from qonduit.functions import AnyFunction


class ClientFiles:
    """Files of a client.

    A user's own functions share one space. For each function of a provider the user has a space apart, which takes the
    function, or "provider/title", to be named; and its provider has one that only those see who have the role FILES.
    Inside of a program these calls know the program's own space.
    """

    def space_of(self, function: AnyFunction | None = None, *, of_provider: bool = False) -> FileSpace:
        """Return where files are."""
        raise NotImplementedError

    def files(self, function: AnyFunction | None = None) -> list[str]:
        """Return the names of the user's files."""
        return [file.name for file in self.space_of(function).list_files()]

    def provider_files(self, function: AnyFunction) -> list[str]:
        """Return the names of the provider's files for a function."""
        return [file.name for file in self.space_of(function, of_provider=True).list_files()]

    def file_usage(self, function: AnyFunction | None = None) -> SpaceUsage:
        """Return how many files the user has, what they have together, and what they may have."""
        return self.space_of(function).usage()

    def file_upload(
        self,
        file: str | PathLike[str],
        function: AnyFunction | None = None,
        *,
        name: str | None = None,
        progress: bool | None = None,
    ) -> str:
        """Store a tar or an h5 file; programs find it as /data/<its name>.

        Args:
            file: A local path.
            function: The provider's function that it is for; a user's own functions share one space.
            name: What to call it, if not by its own name.
            progress: Whether to show a bar; by default in terminals and notebooks, for large files.

        Returns:
            A message with the path that programs see, as JSON.

        Raises:
            FileNotFoundError: There is no such local file.
            InvalidFileError: Its name or its content is not allowed.
            QuotaExceededError: There is no room for it; the text has the numbers, and nothing was sent.
        """
        return json.dumps({"message": f"/data/{_upload(self.space_of(function), file, name, progress=progress)}"})

    def provider_file_upload(
        self,
        file: str | PathLike[str],
        function: AnyFunction,
        *,
        name: str | None = None,
        progress: bool | None = None,
    ) -> str:
        """Store a file of the provider's, which the function's programs find as /function_data/<its name>.

        Otherwise it is as `file_upload`; RoleMissingError without the role FILES.
        """
        stored = _upload(self.space_of(function, of_provider=True), file, name, progress=progress)
        return json.dumps({"message": f"/function_data/{stored}"})

    def file_download(
        self,
        file: str,
        function: AnyFunction | None = None,
        target_name: str | None = None,
        download_location: str | PathLike[str] = "./",
        *,
        overwrite: bool = False,
        progress: bool | None = None,
    ) -> str:
        """Fetch a file, check it, and return the path where it is now.

        It appears there whole and in one step.

        Args:
            file: Its name in the space.
            function: As in `file_upload`.
            target_name: What to call it here; by default `downloaded_<part of its digest>_<its name>`.
            download_location: A local folder, made if it is missing.
            overwrite: Replace another file of that name.
            progress: Whether to show a bar; by default in terminals and notebooks, for large files.

        Raises:
            FileExistsError: Another file of that name is there, with other content, and `overwrite` is not set.
            NotADirectoryError: `download_location` is a file.
            StoredFileNotFoundError: There is no such file in the space.
            TransferDamagedError: It did not arrive as it was stored; nothing was written.
        """
        target = (Path(download_location), target_name)
        return _download(self.space_of(function), file, target, overwrite=overwrite, progress=progress)

    def provider_file_download(
        self,
        file: str,
        function: AnyFunction,
        target_name: str | None = None,
        download_location: str | PathLike[str] = "./",
        *,
        overwrite: bool = False,
        progress: bool | None = None,
    ) -> str:
        """Fetch a file of the provider's; otherwise as `file_download`."""
        target = (Path(download_location), target_name)
        space = self.space_of(function, of_provider=True)
        return _download(space, file, target, overwrite=overwrite, progress=progress)

    def file_delete(self, file: str, function: AnyFunction | None = None) -> str:
        """Delete a file and say so; StoredFileNotFoundError if there is none."""
        self.space_of(function).delete(file)
        return "Requested file was deleted."

    def provider_file_delete(self, file: str, function: AnyFunction) -> str:
        """Delete a file of the provider's; otherwise as `file_delete`."""
        self.space_of(function, of_provider=True).delete(file)
        return "Requested file was deleted."


def _upload(space: FileSpace, file: str | PathLike[str], name: str | None, *, progress: bool | None) -> str:
    described = describe_local(Path(file), name)
    with transfer(described.name, described.size_bytes, shown=progress) as tell:
        space.upload(Path(file), described, tell)
    return described.name


def _download(
    space: FileSpace, file: str, target: tuple[Path, str | None], *, overwrite: bool, progress: bool | None
) -> str:
    def show(found: StoredFile) -> contextlib.AbstractContextManager[Callable[[int], None]]:
        return transfer(found.name, found.size_bytes, shown=progress)

    folder, name = target
    with contextlib.closing(space.download(file)) as parts:
        return str(save(parts, folder, name, overwrite=overwrite, show=show))
