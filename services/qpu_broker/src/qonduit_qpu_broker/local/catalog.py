"""The devices that qiskit-ibm-runtime describes, read from its snapshot files.

The package is located, not imported: its import costs seconds and 170 MB, its files a millisecond each.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_REAL_NAMES = {"alt_": "ibm_", "fake_": "ibm_"}


class UnknownDeviceError(KeyError):
    """There is no such device here."""


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What a list of devices shows."""

    name: str
    qubits: int
    folder: Path
    simulator: bool
    family: str
    revision: str
    version: str
    basis_gates: tuple[str, ...]


def snapshot_folder() -> Path:
    """Return the folder of device snapshots; raises FileNotFoundError when the package is missing."""
    spec = importlib.util.find_spec("qiskit_ibm_runtime")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("qiskit-ibm-runtime is not installed: the local devices are described there")
    return Path(next(iter(spec.submodule_search_locations))) / "fake_provider" / "backends"


class DeviceCatalog:
    """The described devices under their real names, largest first."""

    def __init__(self, folder: Path | None = None) -> None:
        found = (_read_facts(path) for path in (folder or snapshot_folder()).glob("*/conf_*.json"))
        self._devices = {facts.name: facts for facts in sorted(found, key=lambda facts: (-facts.qubits, facts.name))}

    def devices(self) -> tuple[DeviceFacts, ...]:
        """Return all devices."""
        return tuple(self._devices.values())

    def facts(self, name: str) -> DeviceFacts:
        """Return one device; raises UnknownDeviceError."""
        try:
            return self._devices[name]
        except KeyError:
            raise UnknownDeviceError(name) from None

    def configuration(self, name: str) -> dict[str, Any]:
        """Return a device's configuration as the runtime API words it."""
        configuration = self._load(name, "conf")
        if configuration is None:
            raise UnknownDeviceError(name)
        configuration["backend_name"] = name
        features = configuration.get("supported_features") or []
        # Snapshots from before dynamic circuits were a feature of their own list the control-flow
        # instructions but not the feature, by which the client filters.
        if "if_else" in (configuration.get("supported_instructions") or []) and "dynamic_circuits" not in features:
            configuration["supported_features"] = [*features, "dynamic_circuits"]
        return configuration

    def properties(self, name: str) -> dict[str, Any] | None:
        """Return a device's properties as the runtime API words them, or None when it has none."""
        properties = self._load(name, "props")
        if properties is not None:
            properties["backend_name"] = name
        return properties

    def digest(self, name: str) -> str:
        """Return a digest of all that is described of a device, its calibration included."""
        paths = (self._path(name, "conf"), self._path(name, "props"))
        described = [hashlib.sha256(path.read_bytes()).digest() if path.is_file() else b"" for path in paths]
        return hashlib.sha256(b"".join(described)).hexdigest()

    def _load(self, name: str, kind: str) -> dict[str, Any] | None:
        path = self._path(name, kind)
        return json.loads(path.read_bytes()) if path.is_file() else None

    def _path(self, name: str, kind: str) -> Path:
        folder = self.facts(name).folder
        return folder / f"{kind}_{folder.name}.json"


def mock_of(name: str) -> str:
    """Return what the client calls the mock of a device: another word for the first of its name."""
    return re.sub(r"^[^_]+", "mock", name)


def _read_facts(path: Path) -> DeviceFacts:
    configuration = json.loads(path.read_bytes())
    processor = configuration.get("processor_type") or {}
    if not isinstance(processor, dict):
        processor = {}
    return DeviceFacts(
        name=_real_name(configuration["backend_name"]),
        qubits=configuration["n_qubits"],
        folder=path.parent,
        simulator=bool(configuration.get("simulator")),
        family=str(processor.get("family", "")),
        revision=str(processor.get("revision", "")),
        version=str(configuration.get("backend_version", "")),
        basis_gates=tuple(configuration.get("basis_gates", ())),
    )


def _real_name(name: str) -> str:
    """Return the name under which programs know a device; some snapshots carry another."""
    for prefix, real in _REAL_NAMES.items():
        if name.startswith(prefix):
            return real + name.removeprefix(prefix)
    return name
