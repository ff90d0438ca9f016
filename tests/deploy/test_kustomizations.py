"""The manifests build, and Kubernetes would accept each of them."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
import yaml
from kustomized import MANIFESTS, build, components, read, write_overlay
from manifest_pods import pod_problems
from manifest_references import BY_HAND, reference_problems
from manifest_schemas import schema_problems

if TYPE_CHECKING:
    from pathlib import Path

    from kustomized import Document

ALL = "small, with all components"
VARIANTS = ("small", "large", ALL)


@pytest.fixture(params=VARIANTS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param != ALL:
        return MANIFESTS / "overlays" / str(request.param)
    write_overlay(tmp_path, "overlays/small", components())
    return tmp_path


def _sorted(documents: list[Document]) -> list[Document]:
    return sorted(documents, key=lambda each: json.dumps([each["kind"], each["metadata"]], sort_keys=True))


def test_kubernetes_accepts_every_document(folder: Path) -> None:
    assert list(schema_problems(build(folder))) == []


def test_pods_are_what_an_operator_wants(folder: Path) -> None:
    assert list(pod_problems(build(folder))) == []


def test_every_name_leads_somewhere(folder: Path) -> None:
    assert list(reference_problems(build(folder))) == []


def test_our_way_to_build_is_that_of_kustomize(folder: Path) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("there is no kubectl here")
    built = subprocess.run(["kubectl", "kustomize", str(folder)], check=True, capture_output=True, text=True)
    assert _sorted(build(folder)) == _sorted(list(yaml.safe_load_all(built.stdout)))


def test_every_file_is_part_of_a_build() -> None:
    used = {path for top in MANIFESTS.rglob("kustomization.yaml") for path in _files(top)}
    assert used == set(MANIFESTS.rglob("*.yaml"))


def _files(kustomization: Path) -> set[Path]:
    (content,) = read(kustomization)
    named = [*content.get("resources", []), *(patch["path"] for patch in content.get("patches", []) if "path" in patch)]
    return {kustomization, *(kustomization.parent / name for name in named if name.endswith(".yaml"))}


def test_no_secret_is_committed_and_the_guide_makes_each() -> None:
    documents = [each for path in MANIFESTS.rglob("*.yaml") for each in read(path) if isinstance(each, dict)]
    assert [each for each in documents if each.get("kind") == "Secret"] == []
    guide = (MANIFESTS.parents[1] / "docs" / "guides" / "kubernetes.md").read_text()
    assert [name for _, _, name in BY_HAND if name not in guide] == []
