"""Measure a Bell state with SamplerV2; the job waits for and executes on the QPU without saying so itself."""

from qiskit import QuantumCircuit
from qiskit.transpiler import generate_preset_pass_manager
from qiskit_ibm_runtime import QiskitRuntimeService, SamplerV2
from qiskit_serverless import Job, get_arguments, save_result, update_status

update_status(Job.MAPPING)
bell = QuantumCircuit(2)
bell.h(0)
bell.cx(0, 1)
bell.measure_all()

update_status(Job.OPTIMIZING_HARDWARE)
backend = QiskitRuntimeService().backend(get_arguments().get("backend", "ibm_torino"))
isa_circuit = generate_preset_pass_manager(optimization_level=1, backend=backend).run(bell)

job = SamplerV2(mode=backend).run([isa_circuit], shots=1000)
counts = job.result()[0].data.meas.get_counts()

update_status(Job.POST_PROCESSING)
save_result({"counts": counts, "qpu_job": job.job_id(), "backend": backend.name})
