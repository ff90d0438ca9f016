"""Estimate the energy of a Bell state with EstimatorV2 inside a session."""

from qiskit import QuantumCircuit
from qiskit.quantum_info import SparsePauliOp
from qiskit.transpiler import generate_preset_pass_manager
from qiskit_ibm_runtime import EstimatorV2, QiskitRuntimeService, Session
from qiskit_serverless import get_arguments, save_result

bell = QuantumCircuit(2)
bell.h(0)
bell.cx(0, 1)
observable = SparsePauliOp.from_list([("ZZ", 1.0), ("XX", 1.0), ("ZI", 0.5)])

backend = QiskitRuntimeService().backend(get_arguments().get("backend", "ibm_torino"))
isa_circuit = generate_preset_pass_manager(optimization_level=1, backend=backend).run(bell)
with Session(backend=backend) as session:
    job = EstimatorV2(mode=session).run([(isa_circuit, observable.apply_layout(isa_circuit.layout))])
    energy = float(job.result()[0].data.evs)

save_result({"energy": energy, "observable": observable})
