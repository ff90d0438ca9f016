"""Go through every stage a workload can name, and end with a result."""

from qiskit_serverless import Job, save_result, update_status

# Mapping the problem to circuits: "RUNNING: MAPPING".
update_status(Job.MAPPING)

# Transpiling, error suppression and the like: "RUNNING: OPTIMIZING_FOR_HARDWARE".
update_status(Job.OPTIMIZING_HARDWARE)

# A quantum job was submitted and is queued: "RUNNING: WAITING_FOR_QPU".
update_status(Job.WAITING_QPU)

# The quantum job runs: "RUNNING: EXECUTING_QPU".
update_status(Job.EXECUTING_QPU)

# Classical work on what came back: "RUNNING: POST_PROCESSING".
update_status(Job.POST_PROCESSING)

save_result({"stages": 5})
