"""The gRPC front API: each module serves one service of `qonduit_api.v1`."""
