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
from operator_schemas import SCHEMAS

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
    documents = [each for each in build(folder) if (each["apiVersion"], each["kind"]) not in SCHEMAS]
    assert len(documents) > 30
    assert list(schema_problems(documents)) == []


def test_operators_accept_their_resources(folder: Path) -> None:
    documents = [each for each in build(folder) if (each["apiVersion"], each["kind"]) in SCHEMAS]
    assert {"Cluster", "ScaledObject"} <= {each["kind"] for each in documents}
    assert list(schema_problems(documents)) == []


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
    for (_, name), keys in BY_HAND.items():
        made_of_files = {
            key for key in keys if key.startswith("tls.")
        }  # `kubectl create secret tls` names them itself.
        assert {text for text in (name, *(f"{key}=" for key in keys - made_of_files)) if text not in guide} == set()
