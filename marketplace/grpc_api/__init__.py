"""Invocations over gRPC: `airan.invocation.v1`, beside the HTTP interface of the same gateway."""
