"""Corners of real devices with their real calibration: as many qubits as a test has time for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qonduit_qpu_broker.local.catalog import DeviceCatalog
from qonduit_qpu_broker.simulator.device import DeviceModel

if TYPE_CHECKING:
    from qiskit_aer.noise import NoiseModel

CATALOG = DeviceCatalog()


def corner(device: str, qubits: int) -> DeviceModel:
    """Return the model of a device's first qubits."""
    configuration, properties = CATALOG.configuration(device), CATALOG.properties(device)
    assert properties is not None
    properties["qubits"] = properties["qubits"][:qubits]
    properties["gates"] = [gate for gate in properties["gates"] if max(gate["qubits"]) < qubits]
    return DeviceModel(configuration | {"n_qubits": qubits}, properties)


def told_to_aer(model: NoiseModel) -> dict[str, Any]:
    """Return all that Aer simulates by, less the random ids of errors."""
    told: dict[str, Any] = model.to_dict(serializable=True)
    for error in told["errors"]:
        error.pop("id", None)
    return told | {
        "basis_gates": model.basis_gates,
        "noise_qubits": model.noise_qubits,
        "noise_instructions": model.noise_instructions,
    }
