"""The same as transpile_remote.py, with all 16 cpus of a job and 2 GiB for each task."""

from time import time

from qiskit.transpiler import generate_preset_pass_manager
from qiskit_ibm_runtime import QiskitRuntimeService
from qiskit_serverless import Job, distribute_task, get, get_arguments, save_result, update_status

service = QiskitRuntimeService()


@distribute_task(target={"cpu": 16, "mem": 2 * 1024 * 1024 * 1024})
def transpile_remote(circuit, optimization_level, backend):
    """Transpile an abstract circuit (or a list of them) into ISA circuits for a backend."""
    pass_manager = generate_preset_pass_manager(
        optimization_level=optimization_level,
        backend=service.backend(backend),
    )
    return pass_manager.run(circuit)


arguments = get_arguments()
optimization_level = arguments.get("optimization_level")
backend = arguments.get("backend")

update_status(Job.OPTIMIZING_HARDWARE)
start = time()
references = [transpile_remote(circuit, optimization_level, backend) for circuit in arguments.get("circuit_list")]
transpiled = get(references)
end = time()

save_result(
    {
        "circuits": transpiled,
        "metadata": {
            "resource_usage": {
                "RUNNING: OPTIMIZING_FOR_HARDWARE": {"CPU_TIME": end - start, "QPU_TIME": 0},
            },
        },
    }
)
