"""The estimator program, simulated: exact values, then noise of the precision asked for."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from qiskit.primitives import PrimitiveResult
from qiskit.primitives.containers import DataBin, PubResult
from qiskit.primitives.containers.estimator_pub import EstimatorPub
from qiskit.quantum_info import Pauli, SparseObservable

from qonduit_qpu_broker.simulator.circuits import active_qubits, check_width, duration_s
from qonduit_qpu_broker.simulator.refusals import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from qonduit_qpu_broker.simulator.engine import Session

DEFAULT_PRECISION = 1 / math.sqrt(4096)
_MAX_TRAJECTORIES = 100_000

Term = tuple[str, tuple[int, ...], float]
"""Pauli letters, the qubits they act on, the coefficient."""


def run_estimator(params: Mapping[str, Any], session: Session) -> tuple[PrimitiveResult[PubResult], float]:
    """Return the result of an estimator job and its modelled seconds on the device."""
    options = params.get("options") or {}
    precision = options.get("default_precision") or DEFAULT_PRECISION
    if options.get("default_shots"):
        precision = 1 / math.sqrt(options["default_shots"])
    pubs = [EstimatorPub.coerce(tuple(pub), precision) for pub in params["pubs"]]
    for pub in pubs:
        if pub.precision <= 0:
            raise InvalidInputError("A pub asks for a precision of zero; it must be above.")
        check_width(pub.circuit, session.max_qubits)
    generator = np.random.default_rng(session.seed)
    results = [_run_pub(pub, session, generator) for pub in pubs]
    return PrimitiveResult(results, metadata={"version": 2}), sum(_seconds(pub, session) for pub in pubs)


def _run_pub(pub: EstimatorPub, session: Session, generator: np.random.Generator) -> PubResult:
    numbered = np.arange(pub.parameter_values.size).reshape(pub.parameter_values.shape)
    broadcast: Any = np.broadcast_arrays(numbered, np.asarray(pub.observables))
    points, observables = broadcast
    active = frozenset(active_qubits(pub.circuit))
    terms = {index: _terms(observables[index], active) for index in np.ndindex(points.shape)}
    values = _expectations(pub, {term[:2] for found in terms.values() for term in found}, session)
    evs = np.zeros(points.shape)
    for index, found in terms.items():
        evs[index] = math.fsum(factor * values(points[index], letters, qubits) for letters, qubits, factor in found)
    noisy: NDArray[np.float64] = np.asarray(generator.normal(evs, pub.precision))
    stds = np.full(points.shape, pub.precision)
    return PubResult(
        DataBin(evs=noisy, stds=stds, ensemble_standard_error=stds.copy(), shape=points.shape),
        metadata={
            "shots": _shots(pub),
            "target_precision": pub.precision,
            "circuit_metadata": pub.circuit.metadata or {},
            "resilience": {},
            "num_randomizations": 1,
        },
    )


def _terms(observable: Mapping[str, complex], active: frozenset[int]) -> tuple[Term, ...]:
    """Return an observable as Pauli terms on qubits in use.

    A qubit on which nothing happens is in |0>: there Z is 1, and X and Y are 0.
    """
    paulis = SparseObservable.from_list(list(observable.items())).as_paulis().to_sparse_list()
    found = []
    for letters, qubits, coefficient in paulis:
        on_idle = {letter for letter, qubit in zip(letters, qubits, strict=True) if qubit not in active}
        if on_idle - {"Z"}:
            continue
        kept = sorted((qubit, letter) for letter, qubit in zip(letters, qubits, strict=True) if qubit in active)
        found.append(("".join(letter for _, letter in kept), tuple(qubit for qubit, _ in kept), coefficient.real))
    return tuple(found)


class _Values:
    """Expectation values by point and Pauli."""

    def __init__(self, result: Any) -> None:
        self._result = result

    def __call__(self, point: int, letters: str, qubits: tuple[int, ...]) -> float:
        if not letters:
            return 1.0
        return float(np.real(self._result.data(int(point))[_label(letters, qubits)]))


def _expectations(pub: EstimatorPub, paulis: set[tuple[str, tuple[int, ...]]], session: Session) -> _Values:
    """Simulate a pub's circuit at all its points, saving each Pauli's exact value."""
    circuit = pub.circuit.copy()
    wanted = sorted(pauli for pauli in paulis if pauli[0])
    if not wanted:
        return _Values(None)
    for letters, qubits in wanted:
        # Pauli labels are read from the right, qubits from the left.
        circuit.save_expectation_value(Pauli(letters[::-1]), list(qubits), label=_label(letters, qubits))
    table = pub.parameter_values.as_array(circuit.parameters)
    binds = {parameter: table[..., number].ravel() for number, parameter in enumerate(circuit.parameters)}
    simulator = session.simulator_for([pub.circuit])
    result = simulator.run(circuit, parameter_binds=[binds], shots=_shots(pub), seed_simulator=session.seed).result()
    if not result.success:
        raise InvalidInputError(f"The simulation failed: {result.status}")
    return _Values(result)


def _label(letters: str, qubits: tuple[int, ...]) -> str:
    return letters + ",".join(map(str, qubits))


def _shots(pub: EstimatorPub) -> int:
    precision: float = pub.precision
    return min(_MAX_TRAJECTORIES, math.ceil(1 / precision**2 - 1e-6))


def _seconds(pub: EstimatorPub, session: Session) -> float:
    once = duration_s(pub.circuit, session.device.gate_length_s) + session.device.rep_delay_s
    return float(_shots(pub) * pub.size * once)
