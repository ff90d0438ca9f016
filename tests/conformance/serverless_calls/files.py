"""A user's own files."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import requests

from .cells import OLD, World, cell, refused


@cell("ServerlessClient.file_upload")
def file_upload(world: World) -> str | None:
    with tarfile.open("data.tar", "w") as archive:
        archive.add("programs")
    assert json.loads(world.client.file_upload("data.tar", world.function("values"))) == {"message": "data.tar"}
    Path("data.txt").write_text("text")
    if not OLD:  # Which tells that by its answer alone.
        texts = ("Upload failed: ", "Uploaded file is not a valid type.", "in .tar or .h5")
        refused(lambda: world.client.file_upload("data.txt", world.function("values")), *texts)
    return "differs: takes .tar and .h5, as the documentation says, by their names"


@cell("ServerlessClient.files")
def files(world: World) -> None:
    assert world.client.files(world.function("values")) == ["data.tar"]


@cell("ServerlessClient.file_download")
def file_download(world: World) -> None:
    world.client.file_download("data.tar", world.function("values"), target_name="again.tar")
    assert Path("again.tar").read_bytes() == Path("data.tar").read_bytes()
    call = world.client.file_download
    refused(lambda: call("none.tar", world.function("values")), "404 Client Error", kind=requests.HTTPError)


@cell("ServerlessClient.file_delete")
def file_delete(world: World) -> None:
    assert world.client.file_delete("data.tar", world.function("values")) == "Requested file was deleted."
    refused(lambda: world.client.file_delete("data.tar", world.function("values")), "Requested file was not found.")
