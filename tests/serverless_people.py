"""A stack as clients of Qiskit Serverless meet it: its REST front, and people who may do this and that there."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests
from client_environments import serverless_environment_of
from qonduit import QiskitFunction
from stack_control import Stack

if TYPE_CHECKING:
    from qonduit import ServerlessClient

VERSIONS: dict[str, tuple[str, ...]] = {
    # By itself it would take a qiskit-ibm-runtime that it can't be imported with.
    "0.22.0": ("qiskit-ibm-runtime==0.37.0", "qiskit==2.6.2"),
    "0.36.0": ("qiskit-ibm-runtime==0.49.0", "qiskit==2.6.2"),
    "0.37.0": ("qiskit-ibm-runtime==0.50.0", "qiskit==2.6.2"),
}
CALLS_TIMEOUT_S = 1200
ROLES = {"granted": "RUN", "trial": "TRIAL", "reader": "READ"}


class RestStack(Stack):
    """A stack, and the calls that clients of Qiskit Serverless make to it."""

    @property
    def rest_url(self) -> str:
        """Where such a client is pointed at."""
        return f"http://127.0.0.1:{self.services['gateway']['ports']['rest_port']}"

    def request(self, method: str, path: str, *, token: str | None = None, **sent: Any) -> requests.Response:
        """Send a request of one's own, as the administrator unless a token is given."""
        headers = {"Authorization": f"Bearer {token or self.profile['token']}", **sent.pop("headers", {})}
        url = f"{self.rest_url}/api/v1{path}"
        return requests.request(method, url, headers=headers, timeout=60, allow_redirects=False, **sent)

    def call_as(self, version: str, tokens: dict[str, str], folder: Path, *subjects: str) -> dict[str, str]:
        """Have a client of a version call its methods; returns what came of each."""
        python = serverless_environment_of(version, *VERSIONS[version]).python
        # What the client would ask of IBM when it cancels a job stays here.
        nowhere = {"HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1", "HOME": str(self.data_dir)}
        here = str(Path(__file__).with_name("conformance"))
        done = subprocess.run(
            [python, "-m", "serverless_calls", self.rest_url, json.dumps(tokens), *subjects],
            # Kept bytecode saves every call but the first many seconds of imports.
            env={**os.environ, **nowhere, "PYTHONPATH": here, "PYTHONDONTWRITEBYTECODE": ""},
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=CALLS_TIMEOUT_S,
        )
        assert done.returncode == 0, done.stderr
        made: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
        failed = {name: text for name, text in made.items() if text.startswith("fails")}
        assert not failed, f"{version}: {failed}\n{done.stderr}"
        return made


def people(stack: Stack, provider: str, folder: Path) -> dict[str, str]:
    """Make a provider with a function that is closed, and users by what they may do there; returns their tokens."""
    with stack.client() as root:
        names = ("me", "publisher", "member", "stranger", *ROLES)
        tokens = {name: root.cluster.add_user(f"{name}-{provider}") for name in names}
        root.providers.create(provider, [f"publisher-{provider}"])
        root.providers.create_group(provider)
        root.providers.add_member(provider, f"member-{provider}")
    with stack.client(tokens["publisher"]) as publisher:
        for name, role in ROLES.items():
            publisher.providers.grant(provider, role, user=f"{name}-{provider}")
        publisher.providers.grant(provider, "RUN", group=provider)
        close(publisher, f"{provider}/closed", folder)
    return {**tokens, "provider": provider}


def close(publisher: ServerlessClient, title: str, folder: Path) -> None:
    """Publish a function that takes no jobs."""
    (folder / "closed.py").write_text("print('closed')\n")
    publisher.upload(QiskitFunction(title=title, entrypoint="closed.py", working_dir=str(folder)))
    publisher.providers.disable(title, "Closed until Monday.")
