"""Other versions of the client, in environments of their own as a program or a function has them."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import uv

CLIENT = "qiskit-ibm-runtime"
SERVERLESS = "qiskit-serverless"
CACHE = Path(__file__).parents[1] / ".cache" / "clients"


@dataclass(frozen=True)
class Client:
    """One version of the client, with what it needs."""

    python: str
    packages: str


def environment_of(version: str) -> Client:
    """Return an environment that holds the client and all that it asks for, made with uv and kept for the next run."""
    home = CACHE / (version.strip("=.*") or "newest")
    if not (home / "bin" / "python").exists():
        _uv("venv", "-q", "--python", sys.executable, str(home))
    python = str(home / "bin" / "python")
    _uv("pip", "install", "-q", "--python", python, "--upgrade-package", CLIENT, CLIENT + version)
    return Client(python, str(next(home.glob("lib/python*/site-packages"))))


def layer_of(version: str) -> Client:
    """Return a folder with the client alone, to lie over the worker's own environment as a function's layer does."""
    home = CACHE / f"layer-{version.strip('=')}"
    if not home.exists():
        _uv("pip", "install", "-q", "--no-deps", "--python", sys.executable, "--target", str(home), CLIENT + version)
    return Client(sys.executable, str(home))


def serverless_environment_of(version: str, *beside: str) -> Client:
    """Return an environment with a version of Qiskit Serverless's client, and what it must not be left to choose."""
    home = CACHE / f"serverless-{version}"
    python, ready = str(home / "bin" / "python"), home / ".ready"
    if not ready.exists():
        _uv("venv", "-q", "--clear", "--python", sys.executable, str(home))
        _uv("pip", "install", "-q", "--python", python, f"{SERVERLESS}=={version}", *beside)
        ready.touch()
    return Client(python, str(next(home.glob("lib/python*/site-packages"))))


def _uv(*arguments: str) -> None:
    """Run uv; without a package index a skip on a laptop and a failure in CI."""
    done = subprocess.run([uv.find_uv_bin(), *arguments], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    text = f"uv {' '.join(arguments)}:\n{done.stderr}"
    if os.environ.get("CI", "").lower() in {"1", "true"}:
        pytest.fail(text)
    pytest.skip(text)
