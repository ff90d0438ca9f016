"""The gRPC interface of Qonduit."""
