"""Fetch a tar from the user's files into the program and unpack it."""

import tarfile
from pathlib import Path

from qiskit_serverless import IBMServerlessClient, save_result

serverless = IBMServerlessClient(token="<YOUR_API_KEY>")  # noqa: S106 - As on the page; a program needs no token.
files = serverless.files()
downloaded_tar = serverless.file_download(files[0])

with tarfile.open(downloaded_tar, "r") as tar:
    tar.extractall()  # noqa: S202 - The user's own file, in the user's own sandbox.
    members = tar.getnames()

save_result({"files": files, "members": members, "unpacked": all(Path(name).exists() for name in members)})
