"""The private stack that `qonduit up` runs on one machine."""
