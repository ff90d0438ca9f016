"""The REST front: what clients of Qiskit Serverless speak, translated to the services of the gRPC API."""
