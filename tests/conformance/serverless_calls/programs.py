"""What the functions are."""

from __future__ import annotations

PROGRAMS = {
    "values.py": """
from qiskit_serverless import get_arguments, save_result
arguments = get_arguments()
print("[PUBLIC] got", sorted(arguments))
print("a second line")
save_result({"twice": arguments["array"] * 2, "circuit": arguments["circuit"], "depth": arguments["circuit"].depth()})
""",
    "second.py": """
import time
from qiskit_serverless import save_result
time.sleep(1)
save_result({"slept": 1})
""",
    "short.py": """
from qiskit_serverless import save_result
save_result({"done": True})
""",
    "fails.py": """
print("so far so good")
raise ValueError("the lamp is broken")
""",
    "told.py": """
from qiskit_serverless import (
    ServerlessError, get_compute_profile, get_function_size, get_logger, get_provider_logger, is_running_in_serverless,
    is_trial,
)
assert is_running_in_serverless() and not is_trial() and get_function_size() == get_compute_profile() == ""
get_logger().info("for all")
get_provider_logger().info("for\\nsome")
raise ServerlessError("E42", "the lamp is broken", {"lamp": 7})
""",
    "stages.py": """
import time
from qiskit_serverless import Job, update_status
update_status(Job.MAPPING)
time.sleep(600)
""",
    "qpu.py": """
from qiskit import QuantumCircuit, transpile
from qiskit_ibm_runtime import SamplerV2, Session
from qiskit_serverless import get_runtime_service, save_result
backend = get_runtime_service().backend("ibm_torino")
circuit = QuantumCircuit(1)
circuit.h(0)
circuit.measure_all()
with Session(backend=backend) as session:
    job = SamplerV2(mode=session).run([transpile(circuit, backend, optimization_level=0)], shots=10)
    job.result()
    save_result({"job": job.job_id(), "session": session.session_id})
""",
    "solver.py": """
import os
from pathlib import Path
from qiskit_serverless import get_arguments, get_logger, get_provider_logger, is_trial, save_result
get_logger().info("for the user")
get_provider_logger().info("for the provider")
n = get_arguments()["n"]
folders = {"files": Path(os.environ["DATA_PATH"]), "provided": Path("/function_data")}
names = {kind: sorted(path.name for path in folder.glob("*.tar")) for kind, folder in folders.items()}
save_result({"square": n * n, "trial": is_trial(), **names})
""",
}
