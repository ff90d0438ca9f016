"""qonduit_qpu_broker."""
