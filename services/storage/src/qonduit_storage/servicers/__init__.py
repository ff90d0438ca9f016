"""The gRPC side: requests in, calls of the stores, answers out."""
