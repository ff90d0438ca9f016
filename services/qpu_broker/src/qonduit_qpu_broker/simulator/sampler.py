"""The sampler program, simulated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qiskit.primitives import BackendSamplerV2, PrimitiveResult
from qiskit.primitives.containers import SamplerPubResult
from qiskit.primitives.containers.sampler_pub import SamplerPub
from qiskit_aer.primitives import SamplerV2

from qonduit_qpu_broker.simulator.circuits import check_width, duration_s
from qonduit_qpu_broker.simulator.refusals import InvalidInputError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qonduit_qpu_broker.simulator.engine import Session

DEFAULT_SHOTS = 4096


def run_sampler(params: Mapping[str, Any], session: Session) -> tuple[PrimitiveResult[SamplerPubResult], float]:
    """Return the result of a sampler job and its modelled seconds on the device."""
    options = params.get("options") or {}
    measured = (options.get("execution") or {}).get("meas_type", "classified")
    if measured != "classified":
        raise UnsupportedError(f"meas_type {measured!r} is not simulated here; use 'classified'.")
    shots = options.get("default_shots") or DEFAULT_SHOTS
    pubs = [SamplerPub.coerce(tuple(pub), shots) for pub in params["pubs"]]
    for pub in pubs:
        if pub.shots < 1:
            raise InvalidInputError("A pub asks for less than one shot.")
        check_width(pub.circuit, session.max_qubits)
    results = [_run_pub(pub, session, number) for number, pub in enumerate(pubs)]
    charged = sum(_seconds(pub, session) for pub in pubs)
    return PrimitiveResult(results, metadata={"version": 2}), charged


def _run_pub(pub: SamplerPub, session: Session, number: int) -> SamplerPubResult:
    simulator = session.simulator_for([pub.circuit])
    seed = None if session.seed is None else session.seed + number
    dynamic = bool(pub.circuit.parameters) and bool(pub.circuit.has_control_flow_op())
    if dynamic:
        # Aer binds parameters of the outer circuit only; here each point is bound before it runs.
        primitive = BackendSamplerV2(backend=simulator, options={"seed_simulator": seed})
    else:
        primitive = SamplerV2.from_backend(simulator, seed=seed)
    result = primitive.run([pub]).result()[0]
    return SamplerPubResult(result.data, metadata={"circuit_metadata": pub.circuit.metadata or {}})


def _seconds(pub: SamplerPub, session: Session) -> float:
    once = duration_s(pub.circuit, session.device.gate_length_s) + session.device.rep_delay_s
    return float(pub.shots * pub.size * once)
