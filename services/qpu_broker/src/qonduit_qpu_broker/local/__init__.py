"""The local devices: described by qiskit-ibm-runtime's snapshots, simulated on this machine."""
