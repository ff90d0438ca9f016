"""The front door of Qonduit: gRPC API, users, function versions, jobs and their history."""

__version__ = "0.1.0"
