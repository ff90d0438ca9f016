"""Builds the kustomizations of deploy/kubernetes where no kustomize is: resources, components, JSON patches, images.

A test compares it with `kubectl kustomize` wherever that is there.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final, TypeAlias

import jsonpatch
import yaml

Document: TypeAlias = dict[str, Any]
MANIFESTS: Final = Path(__file__).parents[1] / "deploy" / "kubernetes"
_KNOWN: Final = frozenset({"apiVersion", "kind", "resources", "components", "patches", "images"})


class Loader(yaml.CSafeLoader):
    """YAML as Kubernetes reads it, but a key that comes twice is an error instead of a silent loss."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - PyYAML's.
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {str(key) for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"{sorted(twice)} twice in a mapping", node.start_mark)
        return super().construct_mapping(node, deep)


def read(path: Path) -> list[Document]:
    """Return the documents of a file."""
    return [document for document in yaml.load_all(path.read_text(), Loader) if document is not None]


def build(folder: Path) -> list[Document]:
    """Return what a kustomization stands for."""
    return _build(folder.resolve(), [])


def components() -> list[str]:
    """Return the names of all components."""
    return sorted(path.name for path in (MANIFESTS / "components").iterdir())


def write_overlay(folder: Path, base: str, with_components: list[str]) -> None:
    """Write a kustomization of a base, or overlay, and components, as an operator would."""
    # Kustomize takes no absolute paths.
    up = Path(*[".."] * (len(folder.resolve().parts) - 1)) / str(MANIFESTS).lstrip("/")
    overlay = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [str(up / base)],
        "components": [str(up / "components" / name) for name in with_components],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(overlay))


def _build(folder: Path, given: list[Document]) -> list[Document]:
    (kustomization,) = read(folder / "kustomization.yaml")
    unknown = kustomization.keys() - _KNOWN
    if unknown:
        raise ValueError(f"{folder}: {sorted(unknown)} are not built here; do without, or teach tests/kustomized.py")
    documents = list(given)
    for name in kustomization.get("resources", []):
        path = folder / name
        documents += _build(path, []) if path.is_dir() else read(path)
    for name in kustomization.get("components", []):
        documents = _build(folder / name, documents)
    for patch in kustomization.get("patches", []):
        documents = _patched(documents, patch, folder)
    for image in kustomization.get("images", []):
        for document in documents:
            _set_image(document, image)
    return documents


def _patched(documents: list[Document], patch: Document, folder: Path) -> list[Document]:
    text = patch["patch"] if "patch" in patch else (folder / patch["path"]).read_text()
    steps = jsonpatch.JsonPatch(yaml.load(text, Loader))  # noqa: S506 - a SafeLoader.
    meant = [document for document in documents if _is_target(document, patch["target"])]
    if not meant:
        raise ValueError(f"{folder}: no document is meant by the target {patch['target']}")
    return [steps.apply(document) if document in meant else document for document in documents]


def _is_target(document: Document, target: Document) -> bool:
    known = {"kind": document["kind"], **{key: document["metadata"].get(key, "") for key in ("name", "namespace")}}
    return all(re.fullmatch(pattern, known[key]) for key, pattern in target.items())


def _set_image(document: Document, image: Document) -> None:
    pod = document.get("spec", {}).get("template", {}).get("spec", {})
    for container in [*pod.get("containers", []), *pod.get("initContainers", [])]:
        name, _, tag = container["image"].partition(":")
        if name == image["name"]:
            tag = str(image.get("newTag", tag))
            container["image"] = image.get("newName", name) + (f":{tag}" if tag else "")
