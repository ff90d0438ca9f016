"""Decodes one job, simulates it, encodes its result."""

from __future__ import annotations

import json
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qiskit_aer import AerSimulator
from qiskit_ibm_runtime import RuntimeDecoder, RuntimeEncoder

from qonduit_qpu_broker.simulator.circuits import active_qubits, is_clifford
from qonduit_qpu_broker.simulator.device import DeviceModel, DeviceModels
from qonduit_qpu_broker.simulator.estimator import run_estimator
from qonduit_qpu_broker.simulator.frames import MAX_RESULT_BYTES, SimulationReply, SimulationRequest
from qonduit_qpu_broker.simulator.noise_table import BadTableError, NoiseTable
from qonduit_qpu_broker.simulator.refusals import InvalidInputError, SimulationError, TooLargeError, UnsupportedError
from qonduit_qpu_broker.simulator.sampler import run_sampler

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from qiskit.circuit import QuantumCircuit

_MAX_TRACEBACK = 8 * 1024


@dataclass(frozen=True, slots=True)
class Session:
    """What one job's simulation may use."""

    device: DeviceModel
    max_qubits: int
    noisy: bool
    seed: int | None

    def simulator_for(self, circuits: Iterable[QuantumCircuit]) -> AerSimulator:
        """Return a simulator fit for some circuits, with the noise of the qubits they use if asked for."""
        circuits = list(circuits)
        options: dict[str, Any] = {}
        if self.noisy:
            used = sorted({qubit for circuit in circuits for qubit in active_qubits(circuit)})
            options["noise_model"] = self.device.noise_for(tuple(used))
        elif all(len(active_qubits(c)) > self.max_qubits and is_clifford(c) for c in circuits):
            options["method"] = "stabilizer"
        return AerSimulator(**options)


class Engine:
    """Runs jobs one after the other."""

    def __init__(self, *, max_qubits: int) -> None:
        self._max_qubits = max_qubits
        self._devices = DeviceModels()

    def run(self, request: SimulationRequest, body: bytes) -> tuple[SimulationReply, bytes]:
        """Return how a job ended and its result; never raises for what a program submitted."""
        if request.noise_table:
            return self._take_noise(request.backend, body), b""
        try:
            result, charged = self._simulate(request, body)
            encoded = _encoded(result)
            return SimulationReply(ok=True, charged_s=charged), encoded
        except SimulationError as error:
            return SimulationReply(ok=False, reason=str(error), code=error.code), str(error).encode()
        except MemoryError:
            text = "The simulation ran out of memory; use fewer qubits, shots or parameter values."
            return SimulationReply(ok=False, reason=text, code=SimulationError.code), text.encode()
        except Exception as error:  # noqa: BLE001 -- what a program submits may fail in any way; its author gets it all.
            text = traceback.format_exc()[-_MAX_TRACEBACK:]
            reason = f"{type(error).__name__}: {error}"[:1000]
            return SimulationReply(ok=False, reason=reason, code=SimulationError.code), text.encode()

    def _take_noise(self, backend: str, packed: bytes) -> SimulationReply:
        try:
            self._devices.get(backend).take_noise(NoiseTable(packed))
        except BadTableError as error:
            return SimulationReply(ok=False, reason=str(error))
        return SimulationReply(ok=True)

    def noise_table(self, backend: str) -> bytes:
        """Return the table of a device's noise; takes a while."""
        return self._devices.get(backend).noise_table()

    def _simulate(self, request: SimulationRequest, body: bytes) -> tuple[Any, float]:
        try:
            params = json.loads(body, cls=RuntimeDecoder)["params"]
        except MemoryError:
            raise  # Little that is sent may be much when it is unpacked.
        except Exception as error:
            raise InvalidInputError(f"The job's parameters can't be read: {error}") from error
        session = Session(
            device=self._devices.get(request.backend),
            max_qubits=self._max_qubits,
            noisy=request.noisy,
            seed=_seed(params),
        )
        if request.program == "sampler":
            return run_sampler(params, session)
        if request.program == "estimator":
            return run_estimator(params, session)
        if request.program == "executor":
            # Only here: its imports cost a second, and most programs don't use it.
            from qonduit_qpu_broker.simulator.executor import run_executor  # noqa: PLC0415

            return run_executor(params, session)
        raise UnsupportedError(f"The local devices don't run the program {request.program!r}.")


def _seed(params: Mapping[str, Any]) -> int | None:
    options = params.get("options") or {}
    seed = (options.get("simulator") or {}).get("seed_simulator")
    return int(seed) if seed is not None else None


def _encoded(result: Any) -> bytes:
    encoded = json.dumps(result, cls=RuntimeEncoder).encode()
    if len(encoded) > MAX_RESULT_BYTES:
        raise TooLargeError(
            f"The result has {len(encoded):,} bytes; {MAX_RESULT_BYTES:,} are kept. "
            "Ask for fewer shots, or split the job."
        )
    return encoded
