"""A device as the simulator needs it: gate lengths, and a noise model for the qubits in use."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from qiskit.circuit import Delay, Measure, Parameter, Reset
from qiskit.circuit.library import standard_gates
from qiskit.providers import BackendV2, Options, QubitProperties
from qiskit.transpiler import InstructionProperties, Target
from qiskit_aer.noise import NoiseModel
from qiskit_aer.noise.device import basic_device_gate_errors

from qonduit_qpu_broker.local.catalog import DeviceCatalog
from qonduit_qpu_broker.simulator.noise_table import NoiseTable, TableWriter

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from qiskit.circuit import Gate, QuantumCircuit

_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_HERTZ = {"Hz": 1.0, "kHz": 1e3, "MHz": 1e6, "GHz": 1e9}
_DEFAULT_GATE_S = 100e-9
_DEFAULT_REP_DELAY_S = 250e-6


class DeviceModel:
    """Gate lengths and noise of one device, read from its configuration and properties."""

    def __init__(self, configuration: Mapping[str, Any], properties: Mapping[str, Any] | None) -> None:
        self.qubits: int = configuration["n_qubits"]
        self.rep_delay_s = float(configuration.get("default_rep_delay") or 0) * 1e-6 or _DEFAULT_REP_DELAY_S
        self._dt_s = float(configuration.get("dt") or 0) * 1e-9 or None
        self._qubits = [_values(entry) for entry in (properties or {}).get("qubits", [])]
        self._gates = {
            (entry["gate"], tuple(entry["qubits"])): _values(entry["parameters"])
            for entry in (properties or {}).get("gates", [])
        }
        self._table: NoiseTable | None = None
        self.noise_for = lru_cache(maxsize=64)(self._noise_for)

    def gate_length_s(self, name: str, qubits: tuple[int, ...]) -> float:
        """Return how long a gate takes, in seconds; a plain guess for one the device doesn't list."""
        if name == "measure" and qubits[0] < len(self._qubits):
            return self._qubits[qubits[0]].get("readout_length", _DEFAULT_GATE_S)
        return self._gates.get((name, qubits), {}).get("gate_length", _DEFAULT_GATE_S)

    def take_noise(self, table: NoiseTable) -> None:
        """Load noise from a table from now on, instead of making it."""
        self._table = table

    def noise_table(self) -> bytes:
        """Return the table of all gates' errors; takes as long as a model of the whole device, UntabledError."""
        writer = TableWriter()
        everywhere = frozenset(range(self.qubits))
        for name in _known_gates():
            # One gate after the other, so that never all circuits of a large device are in memory.
            writer.add(basic_device_gate_errors(target=self._target(everywhere, [name])))
        return writer.packed()

    def _noise_for(self, active: tuple[int, ...]) -> NoiseModel:
        # Making the noise of all of a large device's gates takes half a minute, that of a few qubits a second;
        # programs run the same layout again and again, so models are kept.
        used = frozenset(active)
        if self._table is None:
            return NoiseModel.from_backend(_DescribedBackend(self._target(used, _known_gates())))
        # Without gates: Aer adds what is made quickly, errors of readout and of delays.
        model = NoiseModel.from_backend(_DescribedBackend(self._target(used, [])))
        model.add_basis_gates([name for name in _known_gates() if self._gate_properties(name, used)])
        for name, qubits, error in self._table.errors(used):
            model.add_quantum_error(error, name, qubits)
        return model

    def _target(self, active: frozenset[int], gates: Iterable[str]) -> Target:
        target = Target(
            num_qubits=self.qubits,
            dt=self._dt_s,
            qubit_properties=[
                QubitProperties(t1=q.get("T1"), t2=q.get("T2"), frequency=q.get("frequency")) for q in self._qubits
            ]
            or None,
        )
        for name in gates:
            errors = self._gate_properties(name, active)
            if errors:
                target.add_instruction(_known_gates()[name], errors, name=name)
        target.add_instruction(Measure(), {(q,): self._readout(q) for q in active if q < len(self._qubits)})
        target.add_instruction(Delay(Parameter("t")), {(q,): None for q in active})
        target.add_instruction(Reset(), {(q,): None for q in active})
        return target

    def _gate_properties(self, name: str, active: frozenset[int]) -> dict[tuple[int, ...], InstructionProperties]:
        return {
            qubits: InstructionProperties(error=values.get("gate_error"), duration=values.get("gate_length"))
            for (gate_name, qubits), values in self._gates.items()
            if gate_name == name and active.issuperset(qubits)
        }

    def _readout(self, qubit: int) -> InstructionProperties:
        values = self._qubits[qubit]
        return InstructionProperties(error=values.get("readout_error"), duration=values.get("readout_length"))


class DeviceModels:
    """Models of devices, kept once read."""

    def __init__(self, catalog: DeviceCatalog | None = None) -> None:
        self._catalog = catalog or DeviceCatalog()
        self.get = lru_cache(maxsize=16)(self._get)

    def _get(self, backend: str) -> DeviceModel:
        return DeviceModel(self._catalog.configuration(backend), self._catalog.properties(backend))


class _DescribedBackend(BackendV2):  # type: ignore[misc,unused-ignore]
    """A target with the face of a backend; nothing runs on it."""

    def __init__(self, target: Target) -> None:
        super().__init__(name="described")
        self._target = target

    @property
    def target(self) -> Target:
        return self._target

    @property
    def max_circuits(self) -> None:
        return None

    @classmethod
    def _default_options(cls) -> Options:
        return Options()

    def run(self, run_input: QuantumCircuit, **options: Any) -> None:
        raise NotImplementedError


@lru_cache(maxsize=1)
def _known_gates() -> dict[str, Gate]:
    names = standard_gates.get_standard_gate_name_mapping()
    return {name: gate for name, gate in names.items() if name not in {"measure", "delay", "reset"}}


def _values(parameters: list[dict[str, Any]]) -> dict[str, float]:
    """Return a list of {name, unit, value} as a mapping in seconds and hertz."""
    return {
        entry["name"]: entry["value"] * (_SECONDS.get(entry.get("unit", "")) or _HERTZ.get(entry.get("unit", ""), 1.0))
        for entry in parameters
        if isinstance(entry.get("value"), int | float)
    }
