"""IBM Quantum as an upstream. Only `rest` knows qiskit-ibm-runtime; nothing here decodes a circuit or a result."""
